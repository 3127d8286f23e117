"""For whoever has this repository: `invoke --list`. The generated project has tasks of its own."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import yaml
from invoke import Collection, Context, Exit, task

ROOT = Path(__file__).parent
SCRATCH = ROOT / "build/project"
PROJECT = "Folder of the rendered project."


@task(help={"project": PROJECT})
def render(c: Context, project: str = str(SCRATCH)) -> None:
    """Render the template with its default answers, as this checkout holds it."""
    import copier
    from copier.errors import DirtyLocalWarning

    if project == str(SCRATCH):  # what was rendered there before is no user's
        shutil.rmtree(SCRATCH, ignore_errors=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DirtyLocalWarning)
        copier.run_copy(str(ROOT), project, defaults=True, overwrite=True, quiet=True, vcs_ref="HEAD")
    print(f"rendered the default answers to {project}")


@task(
    help={"project": PROJECT, "registry": "The emulated Google Cloud's registry, too."},
    pre=[render],
)
def images(c: Context, project: str = str(SCRATCH), registry: bool = False) -> None:
    """Pull the pinned base images; build stand-ins where no registry answers."""
    import docker

    from images import standins

    client = docker.from_env(timeout=600)
    pins = yaml.safe_load(Path(project, "invoke.yaml").read_text())["deployment"]["images"]
    if registry:
        from emulator.registry import SERVER

        pins["registry"] = SERVER
    for name in pins.values():
        try:
            standins.ensure(client, name)
        except standins.StandInError as error:
            raise Exit(str(error), code=1) from None


@task(
    pre=[images],
    help={"port": "Port of this machine; the two after it are taken too.", "detach": "Leave it running."},
)
def local_up(c: Context, port: int = 4180, detach: bool = False) -> None:
    """Bring MLflow up behind sign-in, log a real training run and read it back."""
    invoke = f"{shlex.quote(sys.executable)} -m invoke"
    with c.cd(str(SCRATCH)):
        c.run(f"{invoke} local-up --detach --port {port}")
        try:
            prove(c, invoke, port)
            print("\nFor programs of your own: what it said above, with ./setup before invoke.", flush=True)
            if not detach:
                print("Ctrl-C stops it; until then its log:", flush=True)
                # Not c.run: Ctrl-C reaches the child by itself, and Invoke would pass it on once more.
                command = [sys.executable, "-m", "invoke", "local-logs", "--follow", "--tail", "0"]
                subprocess.run(command, cwd=SCRATCH)
        except KeyboardInterrupt:
            print("\nstopping", flush=True)
        finally:
            if not detach:
                c.run(f"{invoke} local-down", hide=True)


def prove(c: Context, invoke: str, port: int) -> None:
    """Run the project's example against the stack as a user would."""
    print("\nTraining three models and logging them, as a user would:\n", flush=True)
    token = c.run(f"{invoke} local-token --port {port}", hide=True)
    assert token is not None
    c.run(
        "uv run --quiet --no-project --with-requirements examples/requirements.txt examples/train.py",
        env={
            "MLFLOW_TRACKING_URI": f"http://localhost:{port}",
            "MLFLOW_TRACKING_TOKEN": token.stdout.strip(),
            "STORAGE_EMULATOR_HOST": f"http://localhost:{port + 2}",
        },
    )


@task(
    help={
        "down": "End what an earlier rehearsal left up, and delete it.",
        "port": "Port of this machine for the emulated Google Cloud.",
    }
)
def rehearse(c: Context, down: bool = False, port: int = 8085) -> None:
    """Deploy the default answers to an emulated Google Cloud, by the real gcloud, and leave it up."""
    from rehearsal import Rehearsal, RehearsalError

    this = Rehearsal(c, SCRATCH, port)
    if down:
        print("deleted" if this.down() else "nothing was there")
        return
    render(c)
    images(c, registry=True)
    try:
        this.up()
    except RehearsalError as error:
        raise Exit(str(error), code=1) from None


@task(help={"user": "Whose token; the first test user when not given.", "port": "As of local-up."})
def local_token(c: Context, user: str = "", port: int = 4180) -> None:
    """Print a token of a local test user, for MLFLOW_TRACKING_TOKEN."""
    with c.cd(str(SCRATCH)):
        c.run(f"{shlex.quote(sys.executable)} -m invoke local-token --port {port} --user {shlex.quote(user)}")


@task
def local_down(c: Context) -> None:
    """Stop what `invoke local-up --detach` left running; its data stays."""
    with c.cd(str(SCRATCH)):
        c.run(f"{shlex.quote(sys.executable)} -m invoke local-down")


@task
def lock(c: Context) -> None:
    """Pin what ./setup and the checks install, with hashes."""
    options = "--universal --python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade"
    for name in ("requirements", "requirements-checks", "images/requirements-go"):
        c.run(f"uv pip compile --quiet {options} {name}.in --output-file {name}.lock", echo=True)


ns = Collection(render, images, local_up, local_token, local_down, rehearse, lock)
