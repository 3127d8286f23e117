"""Where the CPU of a start goes, step by step, as JSON; run in the image by `python3 -W ignore`."""

import time

BEGIN = time.process_time()  # what the interpreter took to get here

import gc  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402

found: dict[str, float] = {"the interpreter": BEGIN}
last = BEGIN


def mark(name: str) -> None:
    """Note the CPU seconds since the last mark."""
    global last  # noqa: PLW0603
    now = time.process_time()
    found[name], last = now - last, now


# As server/__main__.py goes about it; each import named, so that a lazy one takes place here.
from server import closed, lazy, store, threads  # noqa: E402
from server.environment import mlflow_environment  # noqa: E402

gc.disable()
lazy.install()
os.environ.update(mlflow_environment(os.environ))
mark("server/ itself, and Werkzeug")
import sqlalchemy.orm  # noqa: E402

sqlalchemy.orm.sessionmaker  # noqa: B018
mark("SQLAlchemy")
from mlflow.server.handlers import initialize_backend_stores  # noqa: E402

initialize_backend_stores  # noqa: B018
mark("MLflow's handlers, protobuf, Flask")
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry  # noqa: E402
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking  # noqa: E402

Registry._engine_map, Tracking._engine_map  # noqa: B018
mark("MLflow's stores and their tables' classes")
store.open_stores(os.environ["BACKEND_STORE_URI"], os.environ["DEFAULT_ARTIFACT_ROOT"])
mark("connection, schema, stores opened")
import uvicorn  # noqa: E402
from server.app import application  # noqa: E402

closed.close_storage()
app = application(threads.database_threads(os.environ))
mark("MLflow's Flask app and its 400 rules")
uvicorn.Config(app, lifespan="off", loop="uvloop", http="httptools").load()
mark("uvicorn")
subprocess.run([sys.executable, "-X", "lazy_imports=all", "-m", "server.preflight"], check=True)
children = resource.getrusage(resource.RUSAGE_CHILDREN)
found["the preflight: configuration, token issuers"] = children.ru_utime + children.ru_stime
print(json.dumps(found))
