"""The rehearsal: the default answers deployed by the real gcloud to an emulated Google Cloud, left up."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests
from invoke import Context

from emulator import Emulator

ROOT = Path(__file__).parent
STATE = ROOT / "build/cloud"
EXPORTS = STATE / "environment"
LOG = ROOT / "build/cloud.log"
PROJECT, OWNER = "my-project", "owner@example.com"


class RehearsalError(Exception):
    """What keeps the rehearsal from going on, in a sentence."""


class Rehearsal:
    """One emulated Google Cloud for this checkout, in a process of its own."""

    def __init__(self, c: Context, project: Path, port: int) -> None:
        """Deploy a rendered project; the emulator listens on a port of this machine."""
        self._c = c
        self._project = project
        self._port = port

    def up(self) -> None:
        """Go from an empty cloud, or from where the last time ended, to a service with a run in it.

        Raises:
            RehearsalError: gcloud is missing, or the emulator does not start.
            invoke.exceptions.UnexpectedExit: a task failed.
        """
        if shutil.which("gcloud") is None:
            raise RehearsalError("gcloud is needed: https://cloud.google.com/sdk/docs/install")
        environment = self._start()
        url = self._invoke("url", environment, hide=True)
        # The same each time: run again, nothing is to change.
        client = {"client_id": "rehearsal.apps.googleusercontent.com", "client_secret": "rehearsal"}
        self._control("oauth-clients", {**client, "redirect_uris": [f"{url}/oauth2/callback"]})
        self._invoke("provision", environment)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "client_secret.json"
            file.write_text(json.dumps({"web": client}))
            self._invoke(f"secrets --client-file {file}", environment)
        for task in ("build", "push", "deploy"):
            self._invoke(task, environment)
        self._train(url)
        print(self._summary(url), flush=True)

    def down(self) -> bool:
        """End the emulator and delete all that is in it; say whether there was anything."""
        pid, there = self._pid(), STATE.exists()
        if pid:
            os.kill(pid, signal.SIGTERM)
            while self._pid():
                time.sleep(0.05)
        if there:
            Emulator(STATE, project=PROJECT, owner=OWNER).wipe()
            shutil.rmtree(STATE)
        return there

    def _pid(self) -> int:
        """Return the emulator's process; 0 when none runs."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if b"emulator" in words and str(STATE).encode() in words:
                return int(path.parent.name)
        return 0

    def _start(self) -> dict[str, str]:
        """Have the emulator running, and return what lets gcloud talk to it."""
        if not self._pid():
            STATE.mkdir(parents=True, exist_ok=True)
            STATE.chmod(0o700)
            command = [sys.executable, "-m", "emulator", "--state", str(STATE), "--port", str(self._port)]
            with EXPORTS.open("w") as exports, LOG.open("w") as log:
                process = subprocess.Popen(
                    [*command, "--project", PROJECT, "--owner", OWNER],
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=exports,
                    stderr=log,
                    start_new_session=True,
                )
            while "GCE_METADATA_ROOT" not in EXPORTS.read_text():
                if process.poll() is not None:
                    reason = LOG.read_text().strip().rpartition("\n")[2]
                    raise RehearsalError(f"the emulator did not start on port {self._port}: {reason}")
                time.sleep(0.05)
        lines = EXPORTS.read_text().splitlines()
        pairs = (shlex.split(line)[1].partition("=") for line in lines)
        environment = {name: value for name, _, value in pairs}
        self._port = int(environment["https_proxy"].rpartition(":")[2])
        return environment

    def _control(self, path: str, body: object) -> None:
        requests.post(f"http://127.0.0.1:{self._port}/{path}", json=body, timeout=10).raise_for_status()

    def _invoke(self, task: str, environment: dict[str, str], *, hide: bool = False) -> str:
        if not hide:
            print(f"\n$ invoke {task}", flush=True)
        with self._c.cd(str(self._project)):
            command = f"{shlex.quote(sys.executable)} -m invoke {task}"
            done = self._c.run(command, env=environment, hide=hide, in_stream=False)
        assert done is not None
        return str(done.stdout).strip()

    def _train(self, url: str) -> None:
        """Run the project's example as a user would, with gcloud's token."""
        print("\n$ python examples/train.py", flush=True)
        inner = (
            f". {shlex.quote(str(EXPORTS))} && "
            'MLFLOW_TRACKING_TOKEN="$(gcloud auth print-identity-token)" python examples/train.py'
        )
        # The packages come from outside, past the emulator, which is in the inner shell alone.
        outer = "uv run --quiet --no-project --with-requirements examples/requirements.txt"
        with self._c.cd(str(self._project)):
            self._c.run(
                f"{outer} sh -c {shlex.quote(inner)}", env={"MLFLOW_TRACKING_URI": url}, in_stream=False
            )

    def _summary(self, url: str) -> str:
        inner = f". {shlex.quote(str(EXPORTS))} && gcloud auth print-identity-token"
        token = self._c.run(inner, hide=True, in_stream=False)
        assert token is not None
        profile = STATE / "browser"
        return f"""
The rehearsal is up: {url}

  In the browser   chromium --user-data-dir={profile} \\
                     --proxy-server=http://127.0.0.1:{self._port} --ignore-certificate-errors {url}
                   sign in as any address of example.com; any other is turned away
  In a shell       . {EXPORTS}
                   cd {self._project}, and any task there: {sys.prefix}/bin/invoke status
  From Python      in that shell, with
                   MLFLOW_TRACKING_URI={url}
                   MLFLOW_TRACKING_TOKEN={token.stdout.strip()}
  The end          ./setup invoke rehearse --down
"""
