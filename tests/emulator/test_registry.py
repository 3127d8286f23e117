"""Artifact Registry: pushed to and pulled from by Docker's own clients, listed by the real gcloud."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import docker
import pytest

from emulator import Emulator
from emulator.apis.serviceusage import enable
from tests.emulator.conftest import BASE, NUMBER, OWNER, PROJECT, REGION, Gcloud, Web, push

pytestmark = pytest.mark.docker
HOST = f"{REGION}-docker.pkg.dev"
WHERE = f"--location={REGION}"
READER, WRITER, NOBODY = "reader@example.com", "writer@example.com", "nobody@example.com"


@dataclass
class Docker:
    """The docker command, in the emulator's environment."""

    emulator: Emulator

    def run(self, *arguments: str, user: str = OWNER, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run docker as a user, who may have signed in."""
        path = {name: os.environ[name] for name in ("PATH", "HOME")}
        return subprocess.run(
            ["docker", *arguments],
            env=path | self.emulator.environment(user),
            input=text,
            text=True,
            capture_output=True,
            check=False,
        )

    def __call__(self, *arguments: str, user: str = OWNER, text: str = "") -> str:
        """Run docker, which must exit 0, and return its standard output."""
        done = self.run(*arguments, user=user, text=text)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def refused(self, *arguments: str, user: str = OWNER, text: str = "") -> str:
        """Run docker, which must fail, and return its standard error."""
        done = self.run(*arguments, user=user, text=text)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def login(self, user: str, token: str = "") -> None:
        """Sign in to the registry as Google's documentation says."""
        with self.emulator.cloud.store.lock:
            token = token or self.emulator.cloud.identity.access_token(f"user:{user}")
        login = ("login", "--username=oauth2accesstoken", "--password-stdin", f"https://{HOST}")
        assert "Login Succeeded" in self(*login, user=user, text=token)


@pytest.fixture(scope="module")
def docker_cli(emulator: Emulator, gcloud: Gcloud) -> Docker:
    """docker, signed in: the reader by gcloud's credential helper, the others by a token."""
    made = Docker(emulator)
    gcloud("auth", "configure-docker", HOST, user=READER)
    for user in (OWNER, WRITER, NOBODY):
        made.login(user)
    return made


@pytest.fixture(scope="module")
def repository(gcloud: Gcloud, docker_cli: Docker) -> Iterator[str]:
    """A repository with a reader and a writer, as the beginning of its images' names."""
    gcloud("artifacts", "repositories", "create", "pushed", WHERE, "--repository-format=docker")
    for user, role in ((READER, "reader"), (WRITER, "writer")):
        grant = (f"--member=user:{user}", f"--role=roles/artifactregistry.{role}")
        gcloud("artifacts", "repositories", "add-iam-policy-binding", "pushed", WHERE, *grant)
    name = f"{HOST}/{PROJECT}/pushed"
    yield name
    left = docker_cli("images", "--format={{.Repository}}:{{.Tag}}").split()
    docker_cli("rmi", *[image for image in left if image.startswith(name)])


@pytest.fixture(scope="module")
def one(docker_cli: Docker, repository: str) -> tuple[str, str]:
    """An image pushed as its writer, and its digest as docker said it."""
    name = f"{repository}/small:1"
    docker_cli(
        "build", "--tag", name, "-", text="FROM scratch\nLABEL x=1\nCOPY --from=registry:3 /etc/hostname /\n"
    )
    said = docker_cli("push", name, user=WRITER)
    assert f"The push refers to repository [{repository}/small]" in said
    assert "emulated" not in said
    return name, said.partition("digest: ")[2].partition(" ")[0]


def test_what_is_pushed_is_listed(gcloud: Gcloud, repository: str, one: tuple[str, str]) -> None:
    name, digest = one
    place = (WHERE, "--repository=pushed")
    tags = gcloud("artifacts", "tags", "list", "--package=small", *place, "--format=value(name,version)")
    assert [part.rpartition("/")[2] for part in tags.split()] == ["1", digest]
    (listed,) = json.loads(
        gcloud("artifacts", "docker", "images", "list", repository, "--include-tags", "--format=json")
    )
    assert (listed["package"], listed["version"]) == (f"{repository}/small", digest)
    assert listed["tags"] == ["1"]
    described = gcloud(
        "artifacts", "docker", "images", "describe", name, "--format=value(image_summary.digest)"
    )
    assert described == digest


def test_who_may_not_push_is_denied(docker_cli: Docker, one: tuple[str, str], emulator: Emulator) -> None:
    name, _ = one
    resource = f'on resource "projects/{PROJECT}/locations/{REGION}/repositories/pushed"'
    upload = "artifactregistry.repositories.uploadArtifacts"
    for user in (READER, NOBODY):
        assert f'denied: Permission "{upload}" denied {resource}' in docker_cli.refused(
            "push", name, user=user
        )
    docker_cli("logout", HOST, user=NOBODY)
    error = docker_cli.refused("push", name, user=NOBODY)
    assert (
        f'denied: Unauthenticated request. Unauthenticated requests do not have permission "{upload}"'
        in error
    )
    nowhere = name.replace("/pushed/", "/nowhere/")
    docker_cli("tag", name, nowhere)
    assert 'name unknown: Repository "nowhere" not found' in docker_cli.refused("push", nowhere)
    docker_cli("rmi", nowhere)
    emulator.cloud.faults.add("docker.manifests.put", 403)
    assert "denied: The caller does not have permission (injected)" in docker_cli.refused("push", name)
    assert "does not exist locally" in docker_cli.refused("push", f"{name}-not-built")
    with pytest.raises(AssertionError, match="denied: Permission"):
        push(emulator, name, NOBODY)  # docker-py: a line of the stream, not an exception


def test_a_token_that_is_none_is_no_login(docker_cli: Docker) -> None:
    login = ("login", "--username=oauth2accesstoken", "--password-stdin", f"https://{HOST}")
    error = docker_cli.refused(*login, user="stranger@example.com", text="ya29.made-up")
    assert "unauthorized" in error


def test_pulled_it_is_the_same(docker_cli: Docker, repository: str, one: tuple[str, str]) -> None:
    name, digest = one
    built = docker_cli("inspect", "--format={{.Id}}", name)
    docker_cli("rmi", name)
    download = 'denied: Permission "artifactregistry.repositories.downloadArtifacts" denied'
    docker_cli.login(NOBODY)
    assert download in docker_cli.refused("pull", name, user=NOBODY)
    assert "does not model a pull by digest" in docker_cli.refused("pull", f"{repository}/small@{digest}")
    said = docker_cli("pull", name, user=READER)
    assert f"Digest: {digest}" in said
    assert f"1: Pulling from {PROJECT}/pushed/small" in said
    assert docker_cli("inspect", "--format={{.Id}}", name) == built
    assert f"manifest for {repository}/small:2 not found" in docker_cli.refused(
        "pull", f"{repository}/small:2"
    )


def test_with_docker_py(emulator: Emulator, one: tuple[str, str]) -> None:
    name, digest = one
    again = name.replace("/small:1", "/by/docker-py:1")
    client = docker.DockerClient(emulator.environment()["DOCKER_HOST"])
    client.images.get(name).tag(again)
    push(emulator, again, WRITER)
    stored = emulator.cloud.store["packages"]
    (package,) = [package for key, package in stored.items() if key.endswith("/pushed/packages/by/docker-py")]
    assert package["tags"] == {"1": digest}


def test_all_else_is_the_engines(docker_cli: Docker, emulator: Emulator) -> None:
    run = ("run", "--rm", "--interactive", "--entrypoint=cat", BASE)
    assert docker_cli(*run, text="there and back") == "there and back"
    client = docker.DockerClient(emulator.environment()["DOCKER_HOST"])
    container = client.containers.run(BASE, ["sleep", "60"], detach=True, auto_remove=True)
    try:
        assert container.exec_run(["echo", "within"]).output == b"within\n"
        assert docker_cli("exec", "--interactive", str(container.id), "cat", text="in") == "in"
    finally:
        container.remove(force=True)


def test_what_was_not_pushed_is_not_deployed(
    docker_cli: Docker, gcloud: Gcloud, repository: str, image: str
) -> None:
    name = f"{repository}/server:unpushed"
    docker_cli("tag", image, name)
    options = (f"--region={REGION}", f"--image={name}", "--no-allow-unauthenticated")
    assert f"Image '{name}' not found" in gcloud.refused("run", "deploy", "unpushed", *options)
    gcloud("run", "services", "delete", "unpushed", f"--region={REGION}")


def test_a_revision_keeps_the_image_that_its_tag_was(
    docker_cli: Docker, emulator: Emulator, gcloud: Gcloud, repository: str, image: str, web: Web
) -> None:
    name = f"{repository}/server:moved"
    docker_cli("tag", image, name)
    push(emulator, name)
    options = (
        f"--region={REGION}",
        f"--image={name}",
        "--allow-unauthenticated",
        "--format=value(status.url)",
    )
    url = gcloud("run", "deploy", "pinned", *options)
    listed = gcloud("run", "revisions", "list", "--service=pinned", f"--region={REGION}", "--format=json")
    (revision,) = json.loads(listed)
    digest = gcloud("artifacts", "docker", "images", "describe", name, "--format=value(image_summary.digest)")
    assert revision["status"]["imageDigest"] == f"{repository}/server@{digest}"
    small = f"{repository}/small:1"  # which cannot serve
    docker_cli("tag", small, name)
    push(emulator, name)
    gcloud("artifacts", "docker", "images", "delete", f"{repository}/server@{digest}")
    emulator.cloud.run.scale_down(0)
    assert web(url).text.startswith("hello from pinned-")
    gcloud("run", "services", "delete", "pinned", f"--region={REGION}")


def test_another_projects_image_is_for_whom_it_is_granted_to(
    docker_cli: Docker, emulator: Emulator, gcloud: Gcloud, image: str
) -> None:
    cloud = emulator.cloud
    cloud.add_project("images-1", "222222222222", OWNER)
    enable(cloud, "images-1", "artifactregistry.googleapis.com")
    options = (WHERE, "--project=images-1")
    gcloud("artifacts", "repositories", "create", "shared", "--repository-format=docker", *options)
    name = f"{HOST}/images-1/shared/server:1"
    docker_cli("tag", image, name)
    push(emulator, name)
    docker_cli("rmi", name)
    deploy = (
        "run",
        "deploy",
        "foreign",
        f"--region={REGION}",
        f"--image={name}",
        "--no-allow-unauthenticated",
    )
    agent = f"service-{NUMBER}@serverless-robot-prod.iam.gserviceaccount.com"
    assert f"Service Agent {agent} must have permission to read the image" in gcloud.refused(*deploy)
    grant = (f"--member=serviceAccount:{agent}", "--role=roles/artifactregistry.reader", *options)
    gcloud("artifacts", "repositories", "add-iam-policy-binding", "shared", *grant)
    gcloud(*deploy, "--revision-suffix=granted")
    gcloud("run", "services", "delete", "foreign", f"--region={REGION}")


def test_an_empty_cloud_has_no_images(tmp_path_factory: pytest.TempPathFactory, one: tuple[str, str]) -> None:
    name, _ = one
    with Emulator(tmp_path_factory.mktemp("empty"), project=PROJECT) as empty:
        enable(empty.cloud, PROJECT, "artifactregistry.googleapis.com")
        Gcloud(empty)("artifacts", "repositories", "create", "pushed", WHERE, "--repository-format=docker")
        other = Docker(empty)
        other.login(OWNER)
        assert "not found: manifest unknown" in other.refused("pull", name)
        assert "Layer already exists" in other("push", name)
        assert "Digest: " in other("pull", name)
        empty.wipe()
    left = docker.from_env().api.images()
    assert not [
        n
        for i in left
        for n in [*(i["RepoTags"] or []), *(i["RepoDigests"] or [])]
        if empty.cloud.engine.id in n
    ]


def test_deleted_by_tag_then_by_repository(
    docker_cli: Docker, gcloud: Gcloud, repository: str, one: tuple[str, str]
) -> None:
    name, _ = one
    delete = ("artifacts", "docker", "images", "delete", f"{repository}/by/docker-py:1")
    assert "artifactregistry.tags.delete" in gcloud.refused(*delete, "--delete-tags", user=WRITER)
    gcloud(*delete)
    assert "not found" in docker_cli.refused("pull", f"{repository}/by/docker-py:1")
    gcloud("artifacts", "docker", "tags", "add", name, f"{repository}/small:2")
    docker_cli("pull", f"{repository}/small:2")
    gcloud("artifacts", "repositories", "delete", "pushed", WHERE)
    assert 'Repository "pushed" not found' in docker_cli.refused("pull", name)
    gcloud("artifacts", "repositories", "create", "pushed", WHERE, "--repository-format=docker")
    assert gcloud("artifacts", "docker", "images", "list", repository, "--format=value(version)") == ""
