"""`invoke rehearse` as the README says it: up with a run in it, again, down."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import docker
import pytest
import requests

from emulator.engine import Engine
from tests.conftest import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]
SEARCH = "/api/2.0/mlflow/runs/search"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """This checkout's files as a repository of their own: a rehearsal of the user's stays as it is."""
    git = ["git", "-c", "user.name=checks", "-c", "user.email=checks@example.com"]
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():
            target = tmp_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=as it is"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    return tmp_path


def invoke(checkout: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "invoke", *arguments]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_up_again_and_down(checkout: Path) -> None:
    engine = docker.from_env()
    own = {"label": f"emulated-google-cloud={Engine(checkout / 'build/cloud').id}"}
    try:
        said = invoke(checkout, "rehearse", "--port", "0")
        assert "read back diabetes-elastic-net@champion" in said
        url, token, port = (
            re.findall(pattern, said)[-1]
            for pattern in (
                r"MLFLOW_TRACKING_URI=(\S+)",
                r"MLFLOW_TRACKING_TOKEN=(\S+)",
                r"--proxy-server=\S+:(\d+)",
            )
        )
        answer = requests.post(
            url + SEARCH,
            json={"experiment_ids": ["1", "2", "3"]},
            headers={"Authorization": f"Bearer {token}"},
            proxies={"https": f"http://127.0.0.1:{port}"},
            verify=str(checkout / "build/cloud/ca.pem"),
            timeout=60,
        )
        assert len(answer.json()["runs"]) == 3
        assert engine.containers.list(filters=own)
        assert engine.volumes.list(filters=own)
        said = invoke(checkout, "rehearse")
        assert "serves this already" in said
        assert f"--proxy-server=http://127.0.0.1:{port}" in said
    finally:
        said = invoke(checkout, "rehearse", "--down")
    assert said.strip() == "deleted"
    assert invoke(checkout, "rehearse", "--down").strip() == "nothing was there"
    assert engine.containers.list(all=True, filters=own) == []
    assert engine.volumes.list(filters=own) == []
