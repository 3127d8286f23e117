"""The deployment's tasks: `invoke --list` shows them. Each parses, calls and prints."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from invoke import Collection, Context, Exit, task

import own_tasks
from deployment.errors import DeploymentError
from deployment.settings import Settings, SettingsError

if TYPE_CHECKING:
    from deployment.cloud.gcloud import Gcloud
    from deployment.cloud.resources import Resources
    from deployment.local.stack import Stack

PORT = "Port of this machine for the service; the two after it are taken too."


@contextmanager
def said() -> Iterator[None]:
    """Turn an expected error into its sentence and exit code 1."""
    import requests
    from docker.errors import DockerException

    try:
        yield
    except (DeploymentError, SettingsError) as error:
        raise Exit(str(error), code=1) from None
    except (DockerException, requests.RequestException) as error:
        raise Exit(f"the Docker engine failed: {error}; is it running still?", code=1) from None


def settings(c: Context) -> Settings:
    """Return the settings of invoke.yaml."""
    if "deployment" not in c.config:
        raise SettingsError("invoke.yaml has no `deployment`: run invoke in the project's folder")
    return Settings.load(c.config.deployment._config)


def say(text: str) -> None:
    """Print progress as it happens."""
    print(text, flush=True)


def google_cloud(c: Context) -> tuple[Gcloud, Resources]:
    """Return gcloud for the settings' project, and the names of all that is in it."""
    from deployment.cloud.gcloud import Gcloud
    from deployment.cloud.resources import Resources

    these = settings(c)
    return Gcloud(c, these.google_project), Resources(these)


def stack(c: Context, port: int) -> Stack:
    """Return the local stack, up or not."""
    # Not at the top: `invoke --list` needs no Docker's client.
    from deployment.local.layout import Layout
    from deployment.local.stack import Stack

    return Stack(Layout(settings(c), port))


@task(
    help={
        "port": PORT,
        "detach": "Leave it running and return; `invoke local-down` ends it.",
        "fresh": "Delete the data of earlier runs first (asks).",
        "migrate": "Upgrade the kept database's schema first: after a new MLflow version.",
        "yes": "Do not ask.",
    }
)
def local_up(
    c: Context,
    port: int = 4180,
    detach: bool = False,
    fresh: bool = False,
    migrate: bool = False,
    yes: bool = False,
) -> None:
    """Run the whole service on this machine, behind sign-in, until Ctrl-C."""
    from deployment.local.interrupt import interruptible, uninterrupted

    with said(), interruptible():
        this = stack(c, port)
        if fresh:
            wipe(this, yes)
        try:
            this.up(migrate=migrate)
            print(this.summary(), flush=True)
            if not detach:
                this.follow()
        except KeyboardInterrupt:
            print("\nstopping", flush=True)
            raise Exit(code=130) from None
        finally:
            if not detach or sys.exc_info()[0]:
                with uninterrupted():
                    this.down()


@task(help={"data": "Delete its database and artifacts too (asks).", "yes": "Do not ask."})
def local_down(c: Context, data: bool = False, yes: bool = False) -> None:
    """Stop the local stack; its data stays unless told otherwise."""
    with said():
        this = stack(c, 4180)
        found = this.down()
        if data:
            wipe(this, yes)
        kept = ", ".join(this.volumes())
        print("stopped" if found else "nothing was running", f"(kept: {kept})" if kept else "")


@task(help={"follow": "Go on until Ctrl-C.", "tail": "Begin with so many of the last lines."})
def local_logs(c: Context, follow: bool = False, tail: str = "all") -> None:
    """Print the local service's log."""
    with said():
        try:
            for line in stack(c, 4180).logs(follow=follow, tail=tail):
                print(line, flush=True)
        except KeyboardInterrupt:
            pass


@task(help={"user": "Whose token; the first test user when not given.", "port": PORT})
def local_token(c: Context, user: str = "", port: int = 4180) -> None:
    """Print a token of a local test user, for MLFLOW_TRACKING_TOKEN."""
    from deployment.local.layout import CLIENT_ID, Layout
    from deployment.local.token import local_token as token

    with said():
        layout = Layout(settings(c), port)
        print(token(layout.issuer, CLIENT_ID, user or layout.users[0]))


@task
def provision(c: Context) -> None:
    """Create what the service stands on at Google Cloud; run again, it completes what is missing."""
    from deployment.cloud import provision as cloud

    with said():
        gcloud, resources = google_cloud(c)
        cloud.provision(gcloud, resources, say)


@task(
    help={
        "client-file": "The OAuth client as Google's console gives it; asked for when not known yet.",
        "rotate": "Draw a new cookie secret: everybody signs in anew.",
    }
)
def secrets(c: Context, client_file: str = "", rotate: bool = False) -> None:
    """Write the service's secrets: the proxy's whole configuration and MLflow's passphrase."""
    from deployment.cloud import oauth_client
    from deployment.cloud.secret import Secrets
    from deployment.cloud.service import Service

    with said():
        gcloud, resources = google_cloud(c)
        url = resources.url(Service(gcloud, resources, say).project_number())
        print(f"Register this redirect URI with the OAuth client: {url}/oauth2/callback", flush=True)
        store = Secrets(gcloud, resources, say)
        current = store.read(resources.proxy_secret)
        client = oauth_client.read_file(client_file) if client_file else None
        if client is None and current is None:
            client = oauth_client.ask()
        text = oauth_client.configuration(resources.settings, url, client, current, rotate=rotate)
        store.write(resources.proxy_secret, text)
        store.passphrase()
        if resources.settings.database == "external" and store.read(resources.database_secret) is None:
            store.write(resources.database_secret, oauth_client.ask_database())


@task
def build(c: Context) -> None:
    """Build the image, tagged by its content, and put it into Artifact Registry."""
    from deployment.cloud import image

    with said():
        gcloud, resources = google_cloud(c)
        name = image.name(resources)
        if resources.settings.builder == "cloudbuild":
            gcloud.show(image.submit_argv(resources, name))
        else:
            image.build_and_push(gcloud, resources, name, say)
        print(name)


@task
def deploy(c: Context) -> None:
    """Migrate, deploy a candidate, prove it, then give it the traffic; the old one serves until then."""
    from deployment.cloud import image
    from deployment.cloud.service import Service

    with said():
        gcloud, resources = google_cloud(c)
        service, name = Service(gcloud, resources, say), image.name(resources)
        service.migrate(name)
        for step in service.deploy(name, gcloud.identity_token):
            print(f"  {step.name:<20} {step.seconds:6.2f} s  {step.seen}")
        print(resources.url(service.project_number()))


@task
def lock(c: Context) -> None:
    """Pin what the images install, with hashes: the newest versions that requirements.in allows."""
    common = "--python-version 3.15 --universal --generate-hashes --no-header --no-annotate --upgrade"
    wheels = "--only-binary :all: --no-binary pyyaml"
    excludes = "--excludes server/requirements-excluded.txt"
    for folder, name, options in (
        ("server", "requirements", f"{wheels} {excludes}"),
        ("server", "build-requirements", wheels),
        ("local/sign-in", "requirements", wheels),
    ):
        source, target = f"{folder}/{name}.in", f"{folder}/{name}.lock"
        c.run(f"uv pip compile --quiet {common} {options} {source} --output-file {target}", echo=True)


def wipe(this: Stack, yes: bool) -> None:
    """Delete the local data, when asked and answered."""
    volumes = this.volumes()
    if not volumes:
        return
    print(f"This deletes {', '.join(volumes)}: every local experiment, run, model and artifact.")
    if not yes:
        try:
            yes = input("Type yes to go on: ").strip() == "yes"
        except EOFError:  # nobody there to ask
            print()
    if not yes:
        raise DeploymentError("nothing was deleted")
    this.down(data=True)


ns = Collection(
    *(local_up, local_down, local_logs, local_token),
    *(provision, secrets, build, deploy),
    lock,
)
ns.add_collection(Collection.from_module(own_tasks), name="own")
