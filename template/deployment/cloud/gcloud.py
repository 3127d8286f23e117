"""gcloud, run by argv: what it prints is returned, what it refuses is one sentence."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from invoke import Context
from invoke.runners import Result

from deployment.errors import DeploymentError

SIDE_BY_SIDE = 8
Argv = Sequence[str]
# How gcloud 528 says that something is not there: each of its command groups has words of its own.
MISSING = ("NOT_FOUND", "not found", "HTTPError 404", "does not exist", "Cannot find")
# Some show Google's whole answer, of which its message is enough.
ANSWER = re.compile(r'HttpError accessing <.*?"message": ("(?:[^"\\]|\\.)*")', re.DOTALL)


class Gcloud:
    """gcloud for one project.

    Raises:
        DeploymentError: gcloud is not installed.
    """

    def __init__(self, context: Context, project: str) -> None:
        if shutil.which("gcloud") is None:
            raise DeploymentError(
                "gcloud is not installed: https://cloud.google.com/sdk/docs/install, then `gcloud auth login`"
            )
        self.context = context
        self.project = project
        self.dry = bool(context.config.run.dry)

    def run(self, argv: Argv) -> str:
        """Run `gcloud ARGV --project PROJECT` and return what it prints; "" in a dry run.

        Raises:
            DeploymentError: it failed; the message has the command and gcloud's reason.
        """
        result = self._run(argv)
        if result.exited:
            raise DeploymentError(f"{self.line(argv)} failed:\n{reason(result.stderr)}")
        return str(result.stdout).strip()

    def look(self, argv: Argv) -> str | None:
        """Return what a command prints about something, or None where it is not there.

        In a dry run nothing is there.

        Raises:
            DeploymentError: it failed for another reason than that it is not there.
        """
        result = self._run(argv)
        if self.dry:
            return None
        if result.exited == 0:
            return str(result.stdout).strip()
        if any(words in result.stderr for words in MISSING):
            return None
        raise DeploymentError(f"{self.line(argv)} failed:\n{reason(result.stderr)}")

    def describes(self, argv: Argv) -> bool:
        """Say whether what a `describe` asks for is there.

        Raises:
            DeploymentError: as look() does.
        """
        return self.look(argv) is not None

    def pool(self) -> ThreadPoolExecutor:
        """Return a pool for calls that may run side by side; in a dry run they stay in order."""
        return ThreadPoolExecutor(1 if self.dry else SIDE_BY_SIDE)

    def access_token(self) -> str:
        """Return an access token of whoever is signed in to gcloud."""
        return self.run(["auth", "print-access-token"])

    def impersonated(self) -> str:
        """Return the service account that gcloud acts as in each command; "" when it does not."""
        return self.run(["config", "get", "auth/impersonate_service_account"])

    def identity_token(self, account: str = "", audience: str = "") -> str:
        """Return an identity token of whoever is signed in to gcloud, or of a service account.

        Args:
            account: that it impersonates.
            audience: whom a service account's token is for; gcloud makes a person's for itself only.
        """
        return self.run(identity_token_argv(account, audience))

    def line(self, argv: Argv) -> str:
        """Return the command as one would type it."""
        return shlex.join(["gcloud", *argv, f"--project={self.project}"])

    def _run(self, argv: Argv) -> Result:
        command = f"{self.line(argv)} --quiet"
        # gcloud keeps a log file of each call in its configuration, flags and their values included.
        quiet = {"CLOUDSDK_CORE_DISABLE_FILE_LOGGING": "true"}
        result = self.context.run(command, hide=True, warn=True, in_stream=False, env=quiet)
        assert result is not None  # noqa: S101  # only asynchronous runs return none
        return result


def identity_token_argv(account: str, audience: str) -> list[str]:
    """Return the command that prints an identity token; identity_token() says of whom and for whom."""
    argv = ["auth", "print-identity-token"]
    if account:
        argv += [f"--impersonate-service-account={account}", "--include-email"]
    if audience:
        argv += [f"--audiences={audience}"]
    return argv


def reason(errors: str) -> str:
    """Return gcloud's own words, without its advice on updates and surveys."""
    answer = ANSWER.search(errors)
    if answer:
        return f"  {json.loads(answer[1])}"
    lines = [line for line in errors.partition("- '@type'")[0].splitlines() if line.strip()]
    wanted = [n for n, line in enumerate(lines) if line.startswith("ERROR:")]
    return "\n".join(f"  {line}" for line in lines[wanted[0] if wanted else -5 :][:12])


@contextlib.contextmanager
def private_file(content: str) -> Iterator[Path]:
    """Hand out a file that only this user reads, in memory where the system has such a place.

    Secrets reach gcloud by it: a command line is there for every process to read.
    """
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory, prefix="mlflow-") as folder:  # mode 0700
        path = Path(folder) / "content"
        path.touch(mode=0o600)
        path.write_text(content, encoding="utf-8")
        yield path
