"""A rendered project's local stack, driven as a user drives it: by its tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import docker
import requests
import yaml

# Lines that OAuth2-Proxy and MLflow write when all is well, beside the proxy's JSON of severity INFO.
EXPECTED = (
    "INFO mlflow.store.db.utils: Creating initial MLflow database tables",
    "INFO mlflow.store.db.utils: Create SQLAlchemy engine with pool options",
    "INFO mlflow.store.db.utils: Updating database tables",
)


@dataclass
class Local:
    """The stack of the project in `folder`, its proxy on `port`."""

    folder: Path
    port: int
    expected: list[str] = field(default_factory=lambda: list(EXPECTED))

    @property
    def url(self) -> str:
        """The service's address."""
        return f"http://localhost:{self.port}"

    @property
    def issuer(self) -> str:
        """The OpenID provider's address."""
        return f"http://localhost:{self.port + 1}"

    @property
    def storage(self) -> str:
        """The storage emulator's address."""
        return f"http://localhost:{self.port + 2}"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What invoke.yaml says."""
        return dict(yaml.safe_load((self.folder / "invoke.yaml").read_text())["deployment"])

    @cached_property
    def engine(self) -> docker.DockerClient:
        """A client of the Docker engine."""
        return docker.from_env()

    def container(self, part: str) -> Any:
        """Return a container of the stack."""
        return self.engine.containers.get(f"{self.settings['service']}-local-{part}")

    def up(self, *options: str) -> str:
        """Bring it up and return what the task said."""
        return self.invoke("local-up", "--detach", "--port", str(self.port), *options).stdout

    def invoke(self, *arguments: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a task of the project; it must succeed, or fail when so wanted."""
        done = subprocess.run(
            [sys.executable, "-m", "invoke", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def token(self, user: str = "alice@example.com") -> str:
        """Return an identity token of a test user."""
        return self.invoke("local-token", "--port", str(self.port), "--user", user).stdout.strip()

    def session(self, user: str = "alice@example.com") -> requests.Session:
        """Return a session that carries the user's token."""
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {self.token(user)}"
        return session

    def environment(self, user: str = "alice@example.com") -> dict[str, str]:
        """Return the environment of a user's program, as local-up says to set it."""
        return {
            **os.environ,
            "MLFLOW_TRACKING_URI": self.url,
            "MLFLOW_TRACKING_TOKEN": self.token(user),
            "STORAGE_EMULATOR_HOST": self.storage,
        }

    def sql(self, statement: str) -> list[tuple[str, ...]]:
        """Ask the stack's Postgres itself, past MLflow."""
        command = ["psql", "-U", "mlflow", "-d", "mlflow", "-AtF", "\x1f", "-c", statement]
        code, output = self.container("database").exec_run(command)
        assert code == 0, output
        return [tuple(line.split("\x1f")) for line in output.decode().splitlines()]

    def log(self) -> list[str]:
        """Return the service's log lines."""
        return self.invoke("local-logs").stdout.splitlines()

    def assert_log_is_clean(self) -> None:
        """Assert that the log holds JSON of severity INFO or NOTICE, and what is expected."""
        unexpected = []
        for line in self.log():
            if line.startswith("{"):
                if json.loads(line)["severity"] in ("INFO", "NOTICE"):
                    continue
            elif any(text in line for text in self.expected):
                continue
            unexpected.append(line)
        assert not unexpected, "\n".join(unexpected)
