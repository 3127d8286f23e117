"""The whole service on this machine, as these settings make it (pytest -m stack; needs Docker)."""

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests
import yaml

from deployment.local.layout import CLIENT_ID, Layout
from deployment.local.stack import Stack
from deployment.local.token import local_token
from deployment.settings import Settings

pytestmark = pytest.mark.stack
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    values = yaml.safe_load((ROOT / "invoke.yaml").read_text())["deployment"]
    values["service"] = f"{values['service'][:20]}-test"  # beside a stack that somebody uses
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1] % 20000 + 20000
    made = Stack(Layout(Settings.load(values), port))
    made.down(data=True)
    made.up()
    yield made
    made.down(data=True)


def api(stack: Stack, user: str | None, method: str, path: str, **body: object) -> requests.Response:
    headers = {}
    if user:
        headers["Authorization"] = f"Bearer {local_token(stack.layout.issuer, CLIENT_ID, user)}"
    url = f"{stack.layout.url}/api/2.0/mlflow/{path}"
    return requests.request(method, url, json=body or None, headers=headers, timeout=30)


def test_who_may_enter_can_log_and_read(stack: Stack) -> None:
    for user in stack.layout.users[:2]:
        made = api(stack, user, "POST", "experiments/create", name=f"of {user}")
        assert made.status_code == 200, made.text
        experiment = made.json()["experiment_id"]
        run = api(stack, user, "POST", "runs/create", experiment_id=experiment).json()["run"]["info"]
        logged = api(
            stack, user, "POST", "runs/log-metric", run_id=run["run_id"], key="m", value=0.5, timestamp=1
        )
        assert logged.status_code == 200
        read = api(stack, user, "GET", f"runs/get?run_id={run['run_id']}").json()["run"]
        assert read["data"]["metrics"][0]["value"] == 0.5


def test_nobody_else_enters(stack: Stack) -> None:
    assert api(stack, None, "GET", "experiments/get?experiment_id=0").status_code == 401
    outsider = "mallory@elsewhere.test"
    assert api(stack, outsider, "GET", "experiments/get?experiment_id=0").status_code == 403


def test_all_processes_serve(stack: Stack) -> None:
    container = stack.client.containers.get(stack.layout.name("mlflow"))
    commands = [" ".join(row[-1].split()) for row in container.top()["Processes"]]
    servers = [line for line in commands if line.endswith("python3 -m server")]
    assert len(servers) == stack.layout.settings.workers + (
        stack.layout.settings.workers > 1
    )  # and the parent
