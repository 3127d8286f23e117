"""The checks: `nox` runs all; `nox --list` names them."""

from __future__ import annotations

import shutil

import nox

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.error_on_external_run = True
SUBJECTS = [f"benchmarks/subjects/{name}/start-{name}.sh" for name in ("floor", "recipe")]
SCRIPTS = ("setup", ".ci/run", "template/start.sh", "images/postgres/entrypoint.sh", *SUBJECTS)
ELSEWHERE = [f"--ignore=tests/{folder}" for folder in ("abuse", "cloud", "emulator", "without")]
ACCESS = [f"tests/cloud/test_{name}.py" for name in ("access", "client", "providers")]
# Files side by side: these tests wait for gcloud and containers most of the time.
TWO = ("--numprocesses=2", "--dist=loadfile")


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
    session.run("shellcheck", *SCRIPTS)


@nox.session
def render(session: nox.Session) -> None:
    """The questions, what they render to, and the generated project's own checks."""
    install(session)
    session.run("pytest", "-m", "not docker", *ELSEWHERE, *session.posargs)


@nox.session
def cloud(session: nox.Session) -> None:
    """The whole way of a deploy, by the real gcloud on an emulated Google Cloud."""
    if shutil.which("gcloud") is None:
        session.skip("needs gcloud: https://cloud.google.com/sdk/docs/install")
    install(session)
    session.run("invoke", "images", "--registry", external=True)
    session.run("pytest", *TWO, "tests/cloud", *(f"--ignore={file}" for file in ACCESS), *session.posargs)


@nox.session(default=False)
def access(session: nox.Session) -> None:
    """People of other providers, programs, their tokens: at the deployed service and at a local stack."""
    if shutil.which("gcloud") is None:
        session.skip("needs gcloud: https://cloud.google.com/sdk/docs/install")
    install(session)
    session.run("invoke", "images", "--registry", external=True)
    session.run("pytest", *TWO, *ACCESS, "tests/test_access.py", *session.posargs)


@nox.session(default=False)
def abuse(session: nox.Session) -> None:
    """A thousand hostile requests to the deployed service, and to the local stack: after a version moves."""
    if shutil.which("gcloud") is None:
        session.skip("needs gcloud: https://cloud.google.com/sdk/docs/install")
    install(session)
    session.run("invoke", "images", "--registry", external=True)
    for where in ("deployed", "local"):
        session.run("pytest", "tests/abuse", *session.posargs, env={"ABUSE": where})


@nox.session(default=False)
def without(session: nox.Session) -> None:
    """Each protection taken out of the local stack: the tests that docs/security.md names must fail."""
    install(session)
    session.run("invoke", "images", external=True)
    session.run("pytest", "tests/without", *session.posargs)


@nox.session(default=False)
def audit(session: nox.Session) -> None:
    """What the image holds against known vulnerabilities; folders of advisories may be given after --."""
    install(session)
    session.install("pip-audit==2.10.1")
    session.run("invoke", "images", external=True)
    session.run("python", "-m", "tests.audit", *session.posargs)


@nox.session(default=False)
def emulator(session: nox.Session) -> None:
    """The emulated Google Cloud itself, API by API: for who changes it."""
    install(session)
    session.run("invoke", "images", "--registry", external=True)
    session.run("pytest", "tests/emulator", *session.posargs)


@nox.session(default=False)
def sweep(session: nox.Session) -> None:
    """Tasks killed after every API call, a fault at every method, each role taken away, 20 cold starts."""
    if shutil.which("gcloud") is None:
        session.skip("needs gcloud: https://cloud.google.com/sdk/docs/install")
    install(session)
    session.run("invoke", "images", "--registry", external=True)
    names = ("interrupted", "faults", "cold_start", "failing", "federation")
    tests = [f"tests/cloud/test_{name}.py" for name in names]
    session.run("pytest", *TWO, *tests, *session.posargs, env={"SWEEP": "1"})


@nox.session
def stack(session: nox.Session) -> None:
    """The built image in the local stack: every feature, sign-in by browser, limits, failures."""
    install(session)
    session.run("invoke", "images", external=True)
    session.run("pytest", "-m", "docker", *ELSEWHERE, *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Start, first click, throughput, memory, size, beside the recipe's: `-- --quick`, `-- --keep`."""
    install(session)
    session.run("python", "-m", "benchmarks", *session.posargs, env={"PYTHONPATH": "template"})
