"""An emulated Google Cloud for each test, and a rendered project whose tasks talk to it."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import requests

from emulator import Emulator
from emulator.apis.sqladmin import database
from tests.conftest import render_to

PROJECT = "my-project"
CLIENT_SECRET = "GOCSPX-the-clients-own-secret"
SERVICE = "mlflow-123456789012.europe-west1.run.app"
CANDIDATE = f"candidate---{SERVICE}"
USER = "ann@example.com"  # may enter, by the default answers


# All cases, as nox -s sweep takes them; else a spread of them.
SWEEP = bool(os.environ.get("SWEEP"))
# What state() leaves out: what is drawn, or differs from time to time, and what only tells of the past.
PAST = {"builds", "codes", "counters", "operations", "run_executions", "run_revisions"}
TOKENS = {"keys", "oauth_clients", "refresh_tokens", "tokens"}
DRAWN = {
    *("crc32c", "data", "digest", "emulatorPassword", "etag", "oauth2ClientId", "uid", "uniqueId"),
    *("createTime", "creationTimestamp", "lastTransitionTime", "timeCreated", "updateTime", "updated"),
    *("executionCount", "generation", "latestCreatedExecution", "metageneration", "observedGeneration"),
    *("clientSpecifiedPayloadChecksum", "made-of", "memory", "resourceVersion"),
    "run.googleapis.com/operation-id",
}
# Of revisions; and what gcloud draws, of volumes and the like.
NAMES = re.compile(r"\b\d{5}-[a-z0-9]{3}\b|\b[a-z]{3}([-_])[a-z]{3}\1[a-z]{3}\b")


def facts(found: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield each value with where it is, without what differs from time to time."""
    if isinstance(found, dict):
        for name, value in found.items():
            if name not in DRAWN:
                yield from facts(value, f"{path} {name}")
    elif isinstance(found, list):
        for index, value in enumerate(found):
            yield from facts(value, f"{path} {index}")
    else:
        yield path, re.sub(NAMES, "DRAWN", found) if isinstance(found, str) else found


class Cloud:
    """The emulated cloud, and the project's tasks in its environment."""

    def __init__(self, folder: Path, **answers: Any) -> None:
        """Render the default answers, but those given; the emulator is not started."""
        self.folder = folder
        self._changes = 0
        self.user = ""  # who runs the tasks; the owner when empty
        self.project = render_to(folder / "project", **answers)
        self.emulator = Emulator(folder / "cloud", project=PROJECT)
        self.client = folder / "client.json"
        self.client.write_text(json.dumps({"web": {"client_id": "1-a.test", "client_secret": CLIENT_SECRET}}))

    @property
    def store(self) -> Any:
        """The emulator's state."""
        return self.emulator.cloud.store

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a task of the project."""
        return subprocess.Popen(
            [sys.executable, "-m", "invoke", *arguments],
            cwd=self.project,
            env={**os.environ, **self.emulator.environment(self.user), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def invoke(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """Run a task to its end, which must be this exit code; return all that it said."""
        process = self.start(*arguments, **environment)
        output, errors = process.communicate(timeout=250)
        assert process.returncode == code, output + errors
        assert "Traceback" not in errors, errors
        return output + errors

    def build(self) -> str:
        """Build the image and return its name."""
        return str(re.findall(r"\S+/mlflow/mlflow:[0-9a-f]{16}", self.invoke("build"))[-1])

    def gcloud(self, *arguments: str) -> str:
        """Run gcloud itself in the project, as its owner, and return what it prints."""
        environment = {**os.environ, **self.emulator.environment()}
        done = subprocess.run(
            ["gcloud", *arguments], cwd=self.project, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @contextmanager
    def edited(self, file: str, old: str, new: str) -> Iterator[None]:
        """Have a file of the project other than it is, for a while; `old` must be in it."""
        path = self.project / file
        good = path.read_text()
        assert good.count(old) == 1, f"{file} has {old!r} {good.count(old)} times"
        path.write_text(good.replace(old, new))
        try:
            yield
        finally:
            path.write_text(good)

    def changed(self) -> AbstractContextManager[None]:
        """Change a setting for a while, each time otherwise: there is something new to deploy."""
        self._changes += 1
        return self.edited("invoke.yaml", "memory: 512Mi", f"memory: {512 + self._changes}Mi")

    def get(self, path: str, host: str = SERVICE, *, user: str = "") -> requests.Response:
        """Ask the deployed service, with a user's token or without any."""
        environment = self.emulator.environment()
        token = self.emulator.cloud.identity.id_token(user, f"https://{SERVICE}") if user else ""
        return requests.get(
            f"https://{host}{path}",
            headers={"Authorization": f"Bearer {token}"} if token else {},
            proxies={"https": environment["https_proxy"]},
            verify=environment["REQUESTS_CA_BUNDLE"],
            allow_redirects=False,
            timeout=60,
        )

    def serving(self) -> str:
        """Return the revision that has the traffic."""
        (service,) = self.store["run_services"].values()
        (target,) = [entry for entry in service["status"]["traffic"] if entry.get("percent") == 100]
        return str(target["revisionName"])

    def interrupted(self, at: int | str, *arguments: str) -> bool:
        """Kill a task and its gcloud after so many API calls, or at a method's first call.

        Returns:
            Whether it came so far.
        """
        calls, reached = 0, threading.Event()
        log = self.emulator.cloud.log_call

        def count(method: str, *details: Any) -> None:
            nonlocal calls
            log(method, *details)
            calls += 1
            if at in (calls, method):
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

    def state(self) -> dict[str, Any]:
        """Return all that the cloud holds, to be compared with another time's."""
        found: dict[str, Any] = {}
        for name, rows in self.store._collections.items():
            if name not in PAST | TOKENS | {"packages", "policies"}:
                found |= facts(rows, name)
        for resource, policy in self.store["policies"].items():
            for binding in policy.get("bindings", []):
                found |= {f"{resource} {binding['role']} {member}": True for member in binding["members"]}
        return found

    def login(self) -> tuple[str, str]:
        """Return the database's user and password, of the connection string's newest version."""
        uri = urlsplit(self.secret("mlflow-backend-store-uri"))
        return unquote(uri.username or ""), unquote(uri.password or "")

    def signs_in(self, user: str, password: str) -> bool:
        """Say whether the database takes a user's password."""
        server = database(self.emulator.cloud, PROJECT, "mlflow").start()
        command = ["psql", "-h", "/var/run/postgresql", "-U", user, "-d", "mlflow", "-Atc", "select 1"]
        return bool(server.exec_run(command, environment={"PGPASSWORD": password}).output == b"1\n")

    def sql(self, statement: str) -> str:
        """Execute SQL in the service's database, as Cloud SQL's administrator."""
        return database(self.emulator.cloud, PROJECT, "mlflow").execute(statement, database="mlflow").strip()

    def secret(self, name: str) -> str:
        """Return a secret's newest content, past the API."""
        versions = self.store["secret_versions"][f"projects/{PROJECT}/secrets/{name}"]
        return base64.b64decode(versions[str(len(versions))]["data"]).decode()

    def versions(self, name: str) -> int:
        """Return how many versions a secret has."""
        return len(self.store["secret_versions"].get(f"projects/{PROJECT}/secrets/{name}", {}))


@contextmanager
def command_lines() -> Iterator[set[str]]:
    """Note every command line of this machine."""
    heard: set[str] = set()
    stop = threading.Event()

    def listen() -> None:
        while not stop.wait(0.01):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    heard.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                except OSError:
                    continue

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        yield heard
    finally:
        stop.set()
        listener.join()


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """An empty cloud for a module's tests."""
    assert shutil.which("gcloud"), "these tests need gcloud on PATH: install the Google Cloud CLI"
    made = Cloud(tmp_path_factory.mktemp("cloud"))
    with made.emulator:
        yield made
        made.emulator.wipe()


@pytest.fixture(scope="session")
def _session_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    assert shutil.which("gcloud"), "these tests need gcloud on PATH: install the Google Cloud CLI"
    made = Cloud(tmp_path_factory.mktemp("deployed"), ci="github")
    with made.emulator:
        yield made
        made.emulator.wipe()


def ensure_deployed(cloud: Cloud) -> Cloud:
    """Go from an empty cloud to a service that is proved, as the README says it."""
    if not cloud.store["run_services"]:
        cloud.invoke("provision")
        cloud.invoke("secrets", "--client-file", str(cloud.client))
        cloud.build()
        said = cloud.invoke("deploy")
        assert "candidate: passed the smoke test" in said
        assert f"https://{SERVICE}" in said
    return cloud


@pytest.fixture
def deployed(_session_cloud: Cloud) -> Cloud:
    """A service that is deployed once for many tests.

    What one of them changes it puts back, and the service serves on, or is gone.
    """
    return ensure_deployed(_session_cloud)
