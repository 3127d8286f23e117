"""The schema: created once however many start, refused when it is another MLflow's, migrated by command."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.local import Local

pytestmark = pytest.mark.docker
SERVE = ["python3", "-m", "server"]
MIGRATE = [*SERVE, "migrate"]
# A database as the MLflow of some releases ago left it
OLDER = """
import os, sqlalchemy
from alembic import command
from alembic.script import ScriptDirectory
from mlflow.store.db import utils
from mlflow.store.tracking.dbmodels.initial_models import Base
uri = os.environ["BACKEND_STORE_URI"]
engine = sqlalchemy.create_engine(uri)
Base.metadata.create_all(engine)
config = utils._get_alembic_config(uri)
revision = list(ScriptDirectory.from_config(config).walk_revisions())[5].revision
with engine.begin() as connection:
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
"""
ANSWERS = """
import sys, time, urllib.request
while True:
    try:
        sys.exit(urllib.request.urlopen("http://127.0.0.1:5000/health").status != 200)
    except OSError:
        time.sleep(0.1)
"""
numbers = itertools.count()
Run = Callable[..., Any]


@pytest.fixture
def run(local: Local) -> Iterator[Run]:
    """Run commands in the built image on a database of the test's own."""
    name = f"test{next(numbers)}"
    local.sql(f"create database {name}")
    containers = []

    def start(command: list[str]) -> Any:
        container = local.engine.containers.run(
            "mlflow-checks-local-image",
            command[1:],
            entrypoint=command[:1],
            detach=True,
            network="mlflow-checks-local-network",
            read_only=True,
            tmpfs={"/tmp": ""},
            mem_limit="512m",
            environment={
                "BACKEND_STORE_URI": f"postgresql+psycopg2://mlflow:local@mlflow-checks-local-database/{name}",
                "DEFAULT_ARTIFACT_ROOT": "gs://bucket",
                "MLFLOW_CRYPTO_KEK_PASSPHRASE": "local",
                "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "3",
                "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "1",
            },
        )
        containers.append(container)
        return container

    yield start
    for container in containers:
        container.remove(force=True)
    local.sql(f"drop database {name} with (force)")


def ended(container: Any) -> tuple[int, str]:
    """Wait for a container's end and return its exit code and log."""
    return container.wait(timeout=120)["StatusCode"], container.logs().decode()


def answers(container: Any) -> None:
    """Wait until MLflow answers inside the container."""
    code, output = container.exec_run(["python3", "-c", ANSWERS])
    assert code == 0, container.logs().decode() + output.decode()


def test_many_at_once_on_an_empty_database(run: Run) -> None:
    servers = [run(SERVE) for _ in range(20)]
    for server in servers:
        answers(server)
    logs = [server.logs().decode() for server in servers]
    assert sum("Creating initial MLflow database tables" in log for log in logs) == 1
    assert not [log for log in logs if "ERROR" in log or "Traceback" in log or "WARNING" in log]


def test_an_older_schema_is_refused_then_migrated_then_served(run: Run) -> None:
    assert ended(run(["python3", "-W", "ignore", "-c", OLDER]))[0] == 0
    code, log = ended(run(SERVE))
    assert code == 1
    assert "schema is older than this MLflow's: upgrade it first" in log
    assert "Traceback" not in log
    assert [ended(job)[0] for job in [run(MIGRATE), run(MIGRATE)]] == [0, 0]  # two at once, even
    answers(run(SERVE))


@pytest.mark.parametrize("command", [SERVE, MIGRATE])
def test_a_newer_schema_is_refused(run: Run, local: Local, command: list[str]) -> None:
    assert ended(run(MIGRATE))[0] == 0
    database = local.sql("select max(datname) from pg_database where datname like 'test%'")[0][0]
    changed = local.container("database").exec_run(
        ["psql", "-U", "mlflow", "-d", database, "-c", "update alembic_version set version_num = 'f00'"]
    )
    assert changed.exit_code == 0
    code, log = ended(run(command))
    assert code == 1
    assert "schema is newer than this MLflow's" in log
    assert "Traceback" not in log


def test_an_unknown_command_is_refused(run: Run) -> None:
    code, log = ended(run([*SERVE, "upgrade"]))
    assert (code, log) == (1, "server: unknown arguments ['upgrade']: give none, or migrate\n")
