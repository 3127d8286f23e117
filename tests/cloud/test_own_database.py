"""`database: external`: a Postgres of one's own, its address and the OAuth client typed in a terminal."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest

from emulator.engine import address, wait_until
from tests.cloud.conftest import CLIENT_SECRET, USER, Cloud

pytestmark = pytest.mark.docker
PASSWORD = "the/databases@own"
TERMINAL = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud, and the project of who has a database already."""
    assert shutil.which("gcloud"), "these tests need gcloud on PATH: install the Google Cloud CLI"
    made = Cloud(tmp_path_factory.mktemp("cloud"), database="external")
    with made.emulator:
        yield made
        made.emulator.wipe()


@pytest.fixture(scope="module")
def uri(cloud: Cloud) -> str:
    """The address of a Postgres beside the emulated cloud; it goes with it."""
    engine = cloud.emulator.cloud.engine
    environment = {"POSTGRES_USER": "mlflow", "POSTGRES_DB": "mlflow", "POSTGRES_PASSWORD": PASSWORD}
    server = engine.create("postgres:17", engine.name("own-database"), environment=environment)
    server.start()
    ready = ["pg_isready", "--quiet", "--host=127.0.0.1"]
    wait_until(lambda: server.exec_run(ready).exit_code == 0, "the database")
    return f"postgresql+psycopg2://mlflow:the%2Fdatabases%40own@{address(server)}/mlflow"


def typed(cloud: Cloud, task: str, answers: dict[str, str]) -> str:
    """Run a task in a terminal, answer its questions, and return all that stood there."""
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL, sys.executable, "-m", "invoke", task],
        cwd=cloud.project,
        env={**os.environ, **cloud.emulator.environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin and process.stdout
    shown, open_questions = "", dict(answers)
    while piece := os.read(process.stdout.fileno(), 65536):
        shown += piece.decode()
        for question in [one for one in open_questions if one in shown]:
            process.stdin.write(f"{open_questions.pop(question)}\n".encode())
            process.stdin.flush()
    assert process.wait() == 0, shown
    assert not open_questions, shown
    return shown


def test_from_nothing_to_a_service_that_is_proved(cloud: Cloud, uri: str) -> None:
    cloud.invoke("provision")
    assert not cloud.store["sql_instances"]
    said = typed(
        cloud,
        "secrets",
        {
            "OAuth client id: ": "1-a.test",
            "OAuth client secret (not shown): ": CLIENT_SECRET,
            "HOST/DATABASE (not shown): ": uri,
        },
    )
    assert "Register this redirect URI" in said
    assert "1-a.test" in said
    for hidden in (CLIENT_SECRET, uri, PASSWORD):
        assert hidden not in said
    config = tomllib.loads(cloud.secret("mlflow-oauth2-proxy"))
    assert (config["client_id"], config["client_secret"]) == ("1-a.test", CLIENT_SECRET)
    assert cloud.secret("mlflow-backend-store-uri") == uri
    # Both are known by now: nothing is asked again.
    assert "secret mlflow-oauth2-proxy: unchanged" in cloud.invoke("secrets")

    cloud.build()
    assert "candidate: passed the smoke test" in cloud.invoke("deploy")
    assert cloud.get(SEARCH, user=USER).status_code == 200
    (service,) = cloud.store["run_services"].values()
    annotations = service["spec"]["template"]["metadata"]["annotations"]
    assert "run.googleapis.com/cloudsql-instances" not in annotations
    said = cloud.invoke("secrets", "--rotate", "database", code=1)
    assert "change its password where it is kept" in said
    assert "!!" not in cloud.invoke("doctor")
