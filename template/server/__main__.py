"""`python -m server` serves MLflow on the loopback; `python -m server migrate` upgrades the schema."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import warnings
from types import FrameType
from typing import Any

from server import closed, lazy, threads
from server.environment import HOST, PORT, mlflow_environment


def main(argv: list[str]) -> int:
    """Run the command and return its exit code."""
    if argv not in ([], ["migrate"]):
        print(f"server: unknown arguments {argv}: give none, or migrate", file=sys.stderr)
        return 1
    # MLflow's own concern, at every start: it serves Flask through Starlette's adapter.
    warnings.filterwarnings("ignore", message="starlette.middleware.wsgi is deprecated")
    gc.disable()  # until all is imported: nothing of it is garbage
    lazy.install()
    os.environ.update(mlflow_environment(os.environ))
    uri = os.environ["BACKEND_STORE_URI"]

    from server import store

    try:
        if argv == ["migrate"]:
            store.migrate(uri)
            return 0
        store.open_stores(uri, os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"])
    except store.DatabaseError as error:
        print(f"server: {error}", file=sys.stderr)
        return 1
    return serve(int(os.environ.get("MLFLOW_WORKERS", "1")))


def serve(workers: int) -> int:
    """Serve MLflow's app with this many processes until a signal ends them."""
    import uvicorn

    from server.app import application

    closed.close_storage()
    app = application(threads.database_threads(os.environ))
    gc.enable()
    gc.freeze()  # what is loaded now stays: the collector need not walk it again
    config = uvicorn.Config(
        app,
        lifespan="off",
        host=HOST,
        port=PORT,
        loop="uvloop",
        http="httptools",
        access_log=False,  # the proxy logs each request, with who sent it
        log_level="warning",
        server_header=False,
        timeout_keep_alive=120,  # longer than the proxy keeps an idle connection (Go: 90 s)
        timeout_graceful_shutdown=2,
    )
    if workers == 1:
        uvicorn.Server(config).run()
        return 0
    return _prefork(config, workers)


def _prefork(config: Any, workers: int) -> int:
    """Fork the workers from this process, so that they share its memory and its start."""
    import uvicorn
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    socket = config.bind_socket()
    for engine in SqlAlchemyStore._engine_map.values():
        engine.dispose()  # a connection cannot be shared by two processes
    children = []
    for _ in range(workers):
        child = os.fork()
        if child == 0:
            uvicorn.Server(config).run(sockets=[socket])
            os._exit(0)
        children.append(child)
    stopping = False

    def terminate() -> None:
        for child in children:
            with contextlib.suppress(ProcessLookupError):  # already gone and waited for
                os.kill(child, signal.SIGTERM)

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        terminate()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    dead, _ = os.wait()  # none should end by itself: one that does takes the others along
    failed = not stopping
    children.remove(dead)
    terminate()
    for child in children:
        os.waitpid(child, 0)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
