"""An emulated Google Cloud for each test, and a rendered project whose tasks talk to it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from emulator import Emulator
from emulator.apis.sqladmin import database
from tests.conftest import render_to

PROJECT = "my-project"
CLIENT_SECRET = "GOCSPX-the-clients-own-secret"


class Cloud:
    """The emulated cloud, and the project's tasks in its environment."""

    def __init__(self, folder: Path) -> None:
        """Render the default answers; the emulator is not started."""
        self.folder = folder
        self.project = render_to(folder / "project")
        self.emulator = Emulator(folder / "cloud", project=PROJECT)
        self.client = folder / "client.json"
        self.client.write_text(json.dumps({"web": {"client_id": "1-a.test", "client_secret": CLIENT_SECRET}}))

    @property
    def store(self) -> Any:
        """The emulator's state."""
        return self.emulator.cloud.store

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a task of the project."""
        return subprocess.Popen(
            [sys.executable, "-m", "invoke", *arguments],
            cwd=self.project,
            env={**os.environ, **self.emulator.environment()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def invoke(self, *arguments: str, code: int = 0) -> str:
        """Run a task to its end, which must be this exit code; return all that it said."""
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=250)
        assert process.returncode == code, output + errors
        assert "Traceback" not in errors, errors
        return output + errors

    def interrupted(self, at: int, *arguments: str) -> bool:
        """Kill a task and its gcloud after so many API calls; return whether it came so far."""
        calls, reached = 0, threading.Event()
        log = self.emulator.cloud.log_call

        def count(*details: Any) -> None:
            nonlocal calls
            log(*details)
            calls += 1
            if calls == at:
                reached.set()

        self.emulator.cloud.log_call = count  # type: ignore[method-assign,assignment]
        try:
            process = self.start(*arguments)
            while process.poll() is None and not reached.wait(0.02):
                pass
            if reached.is_set():
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        finally:
            self.emulator.cloud.log_call = log  # type: ignore[method-assign]
        return reached.is_set()

    def can_sign_in_to_the_database(self) -> bool:
        """Say whether the secret's password is the user's, and no other is."""
        uri = urlsplit(self.secret("mlflow-backend-store-uri"))
        server = database(self.emulator.cloud, PROJECT, "mlflow").start()
        command = ["psql", "-h", "/var/run/postgresql", "-U", "mlflow", "-d", "mlflow", "-Atc", "select 1"]
        good, bad = (
            server.exec_run(command, environment={"PGPASSWORD": password})
            for password in (unquote(uri.password or ""), "another")
        )
        return bool(good.output == b"1\n" and bad.exit_code != 0)

    def secret(self, name: str) -> str:
        """Return a secret's newest content, past the API."""
        versions = self.store["secret_versions"][f"projects/{PROJECT}/secrets/{name}"]
        return base64.b64decode(versions[str(len(versions))]["data"]).decode()

    def versions(self, name: str) -> int:
        """Return how many versions a secret has."""
        return len(self.store["secret_versions"].get(f"projects/{PROJECT}/secrets/{name}", {}))


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """An empty cloud for a module's tests."""
    assert shutil.which("gcloud"), "these tests need gcloud on PATH: install the Google Cloud CLI"
    made = Cloud(tmp_path_factory.mktemp("cloud"))
    with made.emulator:
        yield made
        made.emulator.wipe()
