"""The checks: `nox` runs all; `nox --list` names them."""

from __future__ import annotations

import shutil

import nox

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.error_on_external_run = True


def install(session: nox.Session) -> None:
    """Install what the checks need, pinned."""
    session.install("--require-hashes", "--requirement", "requirements-checks.lock")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, types and shell, of the repository and of what it ships."""
    install(session)
    for folder in (".", "template"):
        session.run("ruff", "check", folder)
        session.run("ruff", "format", "--check", folder)
    session.run("mypy")
    session.run("shellcheck", "setup", ".ci/run", "template/start.sh", "images/postgres/entrypoint.sh")


@nox.session
def render(session: nox.Session) -> None:
    """The questions, what they render to, and the generated project's own checks."""
    install(session)
    elsewhere = ("--ignore=tests/emulator", "--ignore=tests/cloud")
    session.run("pytest", "-m", "not docker", *elsewhere, *session.posargs)


@nox.session
def cloud(session: nox.Session) -> None:
    """The whole way of a deploy, by the real gcloud on an emulated Google Cloud."""
    if shutil.which("gcloud") is None:
        session.skip("needs gcloud: https://cloud.google.com/sdk/docs/install")
    install(session)
    session.run("invoke", "images", external=True)
    session.run("pytest", "tests/cloud", *session.posargs)


@nox.session(default=False)
def emulator(session: nox.Session) -> None:
    """The emulated Google Cloud itself, API by API: for who changes it."""
    install(session)
    session.run("invoke", "images", external=True)
    session.run("pytest", "tests/emulator", *session.posargs)


@nox.session(default=False)
def sweep(session: nox.Session) -> None:
    """Provisioning killed after every single API call and run again."""
    install(session)
    session.run("pytest", "tests/cloud/test_interrupted.py", *session.posargs, env={"SWEEP": "1"})


@nox.session
def stack(session: nox.Session) -> None:
    """The built image in the local stack: every feature, sign-in by browser, limits, failures."""
    install(session)
    session.run("invoke", "images", external=True)
    elsewhere = ("--ignore=tests/emulator", "--ignore=tests/cloud")
    session.run("pytest", "-m", "docker", *elsewhere, *session.posargs)
