"""gcloud, run by argv: what it prints is returned, what it refuses is one sentence."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from invoke import Context
from invoke.runners import Result

from deployment.errors import DeploymentError

Argv = Sequence[str]


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

    def run(self, argv: Argv) -> str:
        """Run `gcloud ARGV --project PROJECT` and return what it prints; "" in a dry run.

        Raises:
            DeploymentError: it failed; the message has the command and gcloud's reason.
        """
        result = self._run(argv)
        if result.exited:
            raise DeploymentError(f"{self.line(argv)} failed:\n{reason(result.stderr)}")
        return str(result.stdout).strip()

    def describes(self, argv: Argv) -> bool:
        """Say whether what a `describe` asks for is there; in a dry run nothing is.

        Raises:
            DeploymentError: it failed for another reason than that it is not there.
        """
        if self.context.config.run.dry:
            return False
        result = self._run(argv)
        if result.exited == 0:
            return True
        missing = ("NOT_FOUND", "not found", "404", "does not exist", "Cannot find")
        if any(word in result.stderr for word in missing):
            return False
        raise DeploymentError(f"{self.line(argv)} failed:\n{reason(result.stderr)}")

    def show(self, argv: Argv) -> None:
        """Run a command whose output the user watches.

        Raises:
            DeploymentError: it failed.
        """
        result = self.context.run(f"{self.line(argv)} --quiet", warn=True, in_stream=False)
        if result is not None and result.exited:
            raise DeploymentError(f"{self.line(argv)} failed; its output above says why")

    def identity_token(self) -> str:
        """Return an identity token of whoever is signed in to gcloud."""
        return self.run(["auth", "print-identity-token"])

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


def reason(errors: str) -> str:
    """Return gcloud's own words, without its advice on updates and surveys."""
    lines = [line for line in errors.splitlines() if line.strip()]
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
