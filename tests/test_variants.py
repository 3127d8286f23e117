"""Other answers than the defaults, in the local stack, each at the least memory that is accepted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from tests.conftest import local_stack
from tests.local import Local

pytestmark = pytest.mark.docker
VARIANTS: dict[str, dict[str, Any]] = {
    "through MLflow": {"artifacts": "proxied", "allowed": "ada@example.org, grace@example.org"},
    "two processes": {"cpu": 2, "memory": "768Mi", "database_tier": "db-g1-small"},
}


@pytest.fixture(scope="module", params=VARIANTS)
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """The variant's stack; its log must be clean."""
    folder = tmp_path_factory.mktemp("variant")
    with local_stack(folder, service="mlflow-variant", **VARIANTS[request.param]) as made:
        made.up()
        yield made
        made.assert_log_is_clean()


@pytest.fixture
def client(stack: Local) -> Iterator[MlflowClient]:
    """MLflow's client as the first of the test users, without access to the storage if it needs none."""
    allowed = stack.settings["allowed"][0]
    before = dict(os.environ)
    os.environ.update(stack.environment(allowed if "@" in allowed else f"alice@{allowed}"))
    if stack.settings["artifacts"] == "proxied":
        del os.environ["STORAGE_EMULATOR_HOST"]
    mlflow.set_tracking_uri(None)
    yield MlflowClient()
    os.environ.clear()
    os.environ.update(before)


def test_sixteen_programs_with_artifacts_at_the_least_memory(client: MlflowClient, stack: Local) -> None:
    experiment = client.create_experiment("sixteen")

    def train(number: int) -> str:
        mine = MlflowClient()
        run = mine.create_run(experiment).info.run_id
        for step in range(20):
            mine.log_metric(run, "loss", 1 / (step + 1), step=step)
        mine.log_text(run, "x" * 100_000, "text.txt")
        mine.set_terminated(run)
        return str(run)

    with ThreadPoolExecutor(16) as pool:
        runs = list(pool.map(train, range(32)))
    assert {client.get_run(run).data.metrics["loss"] for run in runs} == {1 / 20}
    container = stack.container("mlflow")
    assert not container.attrs["State"]["OOMKilled"]
    assert container.attrs["HostConfig"]["Memory"] == int(stack.settings["memory"][:-2]) * 1024**2


def test_large_artifacts_up_and_down(client: MlflowClient, tmp_path: Path) -> None:
    experiment = client.create_experiment("large")
    run = client.create_run(experiment).info.run_id
    source = tmp_path / "large.bin"
    source.write_bytes(os.urandom(40 * 1024 * 1024))
    client.log_artifact(run, str(source))
    target = tmp_path / "back"
    target.mkdir()
    assert Path(client.download_artifacts(run, "large.bin", str(target))).read_bytes() == source.read_bytes()


def test_where_artifacts_go(client: MlflowClient, stack: Local) -> None:
    root = client.get_experiment("0").artifact_location
    scheme = {"direct": "gs://my-project-mlflow-variant/artifacts/", "proxied": "mlflow-artifacts:/"}
    assert root.startswith(scheme[stack.settings["artifacts"]])


def test_who_may_enter(stack: Local) -> None:
    path = f"{stack.url}/api/2.0/mlflow/experiments/search?max_results=1"
    for entry in stack.settings["allowed"]:
        user = entry if "@" in entry else f"alice@{entry}"
        assert stack.session(user).get(path, timeout=10).status_code == 200
    for user in ("eve@example.org", "mallory@elsewhere.test"):
        assert stack.session(user).get(path, timeout=10).status_code == 403


def test_the_projects_own_stack_tests_pass(stack: Local) -> None:
    command = [sys.executable, "-m", "pytest", "--quiet", "-m", "stack"]
    done = subprocess.run(command, cwd=stack.folder, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_process_a_cpu(stack: Local) -> None:
    rows = [" ".join(row[-1].split()) for row in stack.container("mlflow").top()["Processes"]]
    servers = [row for row in rows if row == "python3 -m server"]
    assert len(servers) == {1: 1, 2: 3}[stack.settings["cpu"]]  # two and their parent
