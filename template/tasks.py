"""The deployment's tasks: `invoke --list` shows them. Each parses, calls and prints."""

from __future__ import annotations

import os
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
    from deployment.cloud.service import Service
    from deployment.local.stack import Stack
    from deployment.smoke import Step

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
    except KeyboardInterrupt:
        raise Exit("interrupted; what was begun is completed by running it again", code=130) from None
    except (DockerException, requests.RequestException) as error:
        raise Exit(f"the Docker engine failed: {error}; is it running still?", code=1) from None


def settings(c: Context) -> Settings:
    """Return the settings of invoke.yaml."""
    if "deployment" not in c.config:
        raise SettingsError("invoke.yaml has no `deployment`: run invoke in the project's folder")
    return Settings.load(c.config.deployment._config)


def say(text: str) -> None:
    """Print progress as it happens."""
    # In one piece: several may speak at once.
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def google_cloud(c: Context) -> tuple[Gcloud, Resources]:
    """Return gcloud for the settings' project, and the names of all that is in it."""
    from deployment.cloud.gcloud import Gcloud
    from deployment.cloud.resources import Resources

    these = settings(c)
    return Gcloud(c, these.google_project), Resources(these)


def google_cloud_service(c: Context) -> Service:
    """Return the service on Cloud Run, deployed or not."""
    from deployment.cloud.service import Service

    return Service(*google_cloud(c), say)


def show(steps: list[Step]) -> None:
    """Print a smoke test's steps with their times."""
    for step in steps:
        print(f"  {step.name:<20} {step.seconds:6.2f} s  {step.seen}")


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
def doctor(c: Context) -> None:
    """Look at everything the service needs on Google Cloud; name what is wrong, and the remedy."""
    from deployment.cloud.doctor import Doctor

    with said():
        findings = Doctor(*google_cloud(c)).findings()
        for finding in findings:
            print(f"{'!!' if finding.problem else 'ok'}  {finding.what}")
            if finding.problem:
                print(f"      {finding.problem}\n      remedy: {finding.remedy}")
        wrong = sum(bool(finding.problem) for finding in findings)
        if wrong:
            raise DeploymentError(f"{wrong} of {len(findings)} are not as they should be")


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
        "rotate": "`cookie`: everybody signs in anew. `database`: a new password, and a revision with it.",
        "drain": "With `--rotate database`: seconds until the old password is worth nothing.",
    }
)
def secrets(c: Context, client_file: str = "", rotate: str = "", drain: int = 300) -> None:
    """Write the service's secrets: the proxy's whole configuration and MLflow's passphrase."""
    from deployment.cloud import oauth_client, rotation
    from deployment.cloud.secret import Secrets

    with said():
        if rotate not in ("", "cookie", "database"):
            raise DeploymentError(f"--rotate is {rotate!r}: give cookie or database")
        service = google_cloud_service(c)
        gcloud, resources = service.gcloud, service.resources
        store = Secrets(gcloud, resources, say)
        if rotate == "database":
            if resources.settings.database != "cloudsql":
                raise DeploymentError("the database is not Cloud SQL: change its password where it is kept")
            show(rotation.rotate(service, store, drain, say))
            return
        url = resources.url(service.number())
        print(f"Register this redirect URI with the OAuth client: {url}/oauth2/callback", flush=True)
        current = store.read(resources.proxy_secret)
        client = oauth_client.read_file(client_file) if client_file else None
        if client is None and current is None and not gcloud.dry:
            client = oauth_client.ask()
        client = client or (("CLIENT_ID", "CLIENT_SECRET") if gcloud.dry else None)
        text = oauth_client.configuration(resources.settings, url, client, current, rotate=rotate == "cookie")
        changed = store.write(resources.proxy_secret, text)
        store.passphrase()
        if resources.settings.database == "external":
            store.keep(resources.database_secret, oauth_client.ask_database)
        if changed:
            print("It takes effect with the next `invoke deploy`.")


@task
def build(c: Context) -> None:
    """Build the image, tagged by its content: by Cloud Build into Artifact Registry, or by Docker here."""
    from deployment.cloud import image

    with said():
        gcloud, resources = google_cloud(c)
        name = image.name(resources)
        if image.pushed(gcloud, resources, name):
            print("unchanged: Artifact Registry has it already")
        elif resources.settings.builder == "docker":
            image.build(resources, name, say)
        elif gcloud.dry:
            print(f"Cloud Build: cloudbuild.yaml with _IMAGE={name}")
        else:
            from deployment.cloud.build import CloudBuild

            CloudBuild(resources, gcloud.access_token(), say).build(name)
        print(name)


@task
def push(c: Context) -> None:
    """Put the image that Docker built into Artifact Registry; Cloud Build does so by itself."""
    from deployment.cloud import image

    with said():
        gcloud, resources = google_cloud(c)
        name = image.name(resources)
        if image.pushed(gcloud, resources, name):
            print("unchanged: Artifact Registry has it already")
        elif resources.settings.builder == "docker":
            image.push(gcloud, name, say)
        else:
            image.needed(gcloud, resources, name)
        print(name)


@task
def migrate(c: Context) -> None:
    """Upgrade the database's schema to this tree's MLflow; `invoke deploy` does so too."""
    from deployment.cloud import image

    with said():
        service = google_cloud_service(c)
        name = image.name(service.resources)
        image.needed(service.gcloud, service.resources, name)
        service.migrate(name)


@task
def deploy(c: Context) -> None:
    """Migrate, deploy a candidate, prove it, then give it the traffic; the old one serves until then."""
    from deployment.cloud import image

    with said():
        service = google_cloud_service(c)
        show(service.deploy(image.name(service.resources)))
        print(service.resources.url(service.number()))


@task(help={"revision": "Which one; the one that served before when not given."})
def rollback(c: Context, revision: str = "") -> None:
    """Prove an earlier revision, then give it the traffic."""
    with said():
        service = google_cloud_service(c)
        show(service.rollback(revision))


@task
def status(c: Context) -> None:
    """Show the service's address, and its revisions with their traffic, newest first."""
    with said():
        for line in google_cloud_service(c).status():
            print(line)


@task
def url(c: Context) -> None:
    """Print the service's address; it is known before the first deploy."""
    with said():
        service = google_cloud_service(c)
        print(service.resources.url(service.number()))


@task(name="open")
def open_(c: Context) -> None:
    """Open the service in the browser."""
    import webbrowser

    with said():
        service = google_cloud_service(c)
        address = service.resources.url(service.number())
        print(address)
        if not webbrowser.open(address):
            raise DeploymentError("no browser was found; open the address above by hand")


@task(
    help={
        "follow": "Go on until Ctrl-C.",
        "tail": "Begin with so many of the newest entries.",
        "severity": "This and above: DEBUG, INFO, NOTICE, WARNING, ERROR, CRITICAL, ALERT, EMERGENCY.",
    }
)
def logs(c: Context, follow: bool = False, tail: int = 100, severity: str = "") -> None:
    """Print the service's log, requests included."""
    from deployment.cloud import logs as cloud

    with said():
        gcloud, resources = google_cloud(c)
        try:
            for line in cloud.read(gcloud, resources, limit=tail, severity=severity, follow=follow):
                print(line, flush=True)
        except KeyboardInterrupt:
            pass


@task(
    help={
        "data": "The database, its backups and the artifacts too.",
        "yes": "The service's name, instead of typing it.",
    }
)
def destroy(c: Context, data: bool = False, yes: str = "") -> None:
    """Delete the deployment; the data stays unless told otherwise."""
    from deployment.cloud import destroy as cloud

    with said():
        gcloud, resources = google_cloud(c)
        service = resources.settings.service
        found = cloud.here(gcloud, cloud.items(resources, data=data))
        if not found:
            print("nothing is there")
            return
        print("This deletes:", *(f"  - {item.what}" for item in found), sep="\n")
        if not data:
            print("It keeps the database, the artifacts' bucket, and the secrets that their data needs.")
        if not gcloud.dry and (yes or ask(f"Type {service} to go on: ")) != service:
            raise DeploymentError("nothing was deleted")
        cloud.destroy(gcloud, resources, found, say)


@task(
    help={
        "repository-id": "The repository's number at GitHub, or the project's at GitLab.",
        "branch": "The branch whose pipeline deploys.",
        "issuer": "Who signs the jobs' tokens, if not github.com or gitlab.com.",
    }
)
def federation(c: Context, repository_id: str = "", branch: str = "main", issuer: str = "") -> None:
    """Let the repository's pipeline deploy, without a key; run again, it completes or changes it."""
    from deployment.cloud import federation as cloud

    with said():
        gcloud, resources = google_cloud(c)
        trust = cloud.Trust(resources.settings.ci, repository_id, branch, issuer)
        name = cloud.federation(gcloud, resources, trust, say)
        if resources.deploy_account not in resources.settings.allowed:
            say(f"add {resources.deploy_account} to `allowed`, then `invoke secrets`: it proves the service")
        say(f"set this variable of the pipeline (it is no secret):\n{cloud.PROVIDER_VARIABLE}={name}")


@task
def ci_login(c: Context) -> None:
    """In a pipeline's job: sign gcloud in as the deploy account."""
    from deployment.cloud import federation as cloud

    with said():
        gcloud, resources = google_cloud(c)
        cloud.sign_in(gcloud, resources, os.environ)
        print(resources.deploy_account)


@task(
    help={
        "service-account": "Whose, instead of yours; you must be allowed to impersonate it.",
        "audience": "Whom a service account's is for; this service when not given.",
    }
)
def token(c: Context, service_account: str = "", audience: str = "") -> None:
    """Print an identity token that the service takes for an hour, and nothing else."""
    with said():
        service = google_cloud_service(c)
        made = service.token(service_account, audience)
        if not made and not c.config.run.dry:
            raise DeploymentError(
                f"{service.people_have()}; for a service account in `allowed` give --service-account"
            )
        print(made)


@task(help={"url": "Another address of the service, or the local stack's; its own when not given."})
def smoke(c: Context, url: str = "") -> None:
    """Prove the running service: who is let in, a run with an artifact logged, read back and deleted."""
    from deployment.smoke import Smoke, is_local, safe

    with said():
        if is_local(url):
            made, have = os.environ.get("MLFLOW_TRACKING_TOKEN", ""), "`invoke local-token` prints tokens"
            show(Smoke(safe(url), made).run())
        else:
            service = google_cloud_service(c)
            address = safe(url) if url else service.resources.url(service.number())
            made, have = service.token(), service.people_have()
            show(service.prove(address, made))
        if not made:
            say(f"nothing was logged: {have}; MLFLOW_TRACKING_TOKEN may hold one")


@task(
    iterable=["add", "remove"],
    help={
        "add": "Let in a domain or an address; may be given several times.",
        "remove": "Shut out one that is in `allowed`; may be given several times.",
    },
)
def access(c: Context, add: list[str], remove: list[str]) -> None:
    """List who may enter; change it in invoke.yaml and in the running service, without a build."""
    from deployment.cloud import access as cloud
    from deployment.cloud.image import HERE
    from deployment.cloud.secret import Secrets

    with said():
        service = google_cloud_service(c)
        if add or remove:
            show(cloud.change(service, HERE / "invoke.yaml", add, remove, say))
            return
        for line in cloud.listing(service, Secrets(service.gcloud, service.resources, say)):
            print(line)


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
    if not yes and ask("Type yes to go on: ") != "yes":
        raise DeploymentError("nothing was deleted")
    this.down(data=True)


def ask(question: str) -> str:
    """Return what is typed; "" where nobody is there to ask."""
    try:
        return input(question).strip()
    except EOFError:
        print()
        return ""


ns = Collection(
    *(local_up, local_down, local_logs, local_token),
    *(doctor, provision, secrets, build, push, migrate, deploy, rollback),
    *(status, url, logs, open_, destroy),
    *(token, smoke, access),
    *(federation, ci_login),
    lock,
)
ns.add_collection(Collection.from_module(own_tasks), name="own")
