"""The checks: `nox` runs all; `nox --list` names them."""

from __future__ import annotations

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
    session.run("pytest", "-m", "not docker", *session.posargs)


@nox.session
def stack(session: nox.Session) -> None:
    """The built image in the local stack: every feature, sign-in by browser, limits, failures."""
    install(session)
    session.run("invoke", "images", external=True)
    session.run("pytest", "-m", "docker", *session.posargs)
