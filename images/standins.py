"""Stand-ins for images that cannot be pulled, each the real program under the real image's name.

Python, Postgres and the registry come from Debian by debootstrap, OAuth2-Proxy and fake-gcs-server from
their own sources by Go (go.mod pins them). Needs root, debootstrap and Go; `./setup` installs both.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import docker
from docker.errors import APIError, ImageNotFound

HERE = Path(__file__).parent
# Inside a build pip and others must trust what this machine trusts. Beside the distribution's own
# bundle, not into it: installing ca-certificates writes that one anew.
CA_BUNDLE = "usr/local/share/ca-certificates.pem"
HOST_CA_BUNDLE = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
LABEL = "LABEL stand-in=true"


class StandInError(Exception):
    """A stand-in could not be built. The message says why."""


def ensure(client: docker.DockerClient, name: str) -> None:
    """Have the image here: it is already, or is pulled, or its stand-in is built. Say which.

    Raises:
        StandInError: none of the three.
    """
    try:
        client.images.get(name)
    except ImageNotFound:
        begin = time.monotonic()
        try:
            client.images.pull(name)
            done = "pulled"
        except APIError:
            print(f"{name}: no registry gives it; building a stand-in", flush=True)
            build(client, name)
            done = "built"
        print(f"{name}: {done} in {time.monotonic() - begin:.0f} s", flush=True)
    else:
        print(f"{name}: here", flush=True)


def build(client: docker.DockerClient, name: str) -> None:
    """Build the stand-in for the image `name`.

    Raises:
        StandInError: there is none for this name, or the build failed.
    """
    repository, _, tag = name.rpartition(":")
    builder = BUILDERS.get(repository.rpartition("/")[2])
    if builder is None:
        raise StandInError(f"{name} cannot be pulled, and there is no stand-in for it")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        changes = builder(root, tag)
        archive = Path(scratch) / "root.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(root, arcname=".")
        client.api.import_image(str(archive), repository=repository, tag=tag, changes=[*changes, LABEL])


def _python(root: Path, tag: str) -> list[str]:
    version = tag.partition("-")[0]  # "3.15" of "3.15-slim-trixie"
    packages = [f"python{version}", f"python{version}-venv"]
    _debootstrap(root, "trixie" if version == "3.13" else "sid", packages)
    # As the slim images have it: no documentation, no translations, no cache of apt's.
    for folder in ("doc", "info", "locale", "man"):
        shutil.rmtree(root / "usr/share" / folder, ignore_errors=True)
    (root / "etc/apt/apt.conf.d/docker-clean").write_text(
        'Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n'
    )
    # The mirror may be a snapshot whose signature has run out.
    (root / "etc/apt/apt.conf.d/snapshot").write_text('Acquire::Check-Valid-Until "false";\n')
    for link in ("python3", "python"):
        (root / "usr/local/bin" / link).symlink_to(f"/usr/bin/python{version}")
    shutil.copy(HOST_CA_BUNDLE, root / CA_BUNDLE)
    return [PATH, f"ENV SSL_CERT_FILE=/{CA_BUNDLE} PIP_CERT=/{CA_BUNDLE}", 'CMD ["python3"]']


def _postgres(root: Path, tag: str) -> list[str]:
    _debootstrap(root, "trixie", [f"postgresql-{tag}"])
    shutil.copy(HERE / "postgres/entrypoint.sh", root / "entrypoint.sh")
    data = root / "var/lib/postgresql/data"
    data.mkdir()
    shutil.chown(data, *_owner(root / "var/lib/postgresql"))
    return [
        PATH,
        "ENV PGDATA=/var/lib/postgresql/data POSTGRES_USER=postgres POSTGRES_DB=postgres",
        "USER postgres",
        'ENTRYPOINT ["/entrypoint.sh"]',
    ]


def _registry(root: Path, tag: str) -> list[str]:
    # Debian's is the release before 3, which speaks the same protocol.
    _debootstrap(root, "trixie", ["docker-registry"])
    configuration = root / "etc/distribution/config.yml"  # where the image has it
    configuration.parent.mkdir()
    configuration.write_text(
        "version: 0.1\nstorage: {filesystem: {rootdirectory: /var/lib/registry}}\nhttp: {addr: ':5000'}\n"
    )
    return ['ENTRYPOINT ["docker-registry"]', f'CMD ["serve", "/{configuration.relative_to(root)}"]']


def _oauth2_proxy(root: Path, tag: str) -> list[str]:
    module = "github.com/oauth2-proxy/oauth2-proxy/v7"
    _go_build(root / "bin/oauth2-proxy", module, tag, f"-X {module}/pkg/version.VERSION={tag}")
    return ["USER 65532:65532", 'ENTRYPOINT ["/bin/oauth2-proxy"]']


def _fake_gcs_server(root: Path, tag: str) -> list[str]:
    _go_build(root / "bin/fake-gcs-server", "github.com/fsouza/fake-gcs-server", f"v{tag}")
    return ['ENTRYPOINT ["/bin/fake-gcs-server", "-data", "/data"]']


BUILDERS: dict[str, Callable[[Path, str], list[str]]] = {
    "python": _python,
    "postgres": _postgres,
    "registry": _registry,
    "oauth2-proxy": _oauth2_proxy,
    "fake-gcs-server": _fake_gcs_server,
}
PATH = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _debootstrap(root: Path, suite: str, packages: list[str]) -> None:
    include = ",".join([*packages, "ca-certificates"])
    _run("debootstrap", "--variant=minbase", f"--include={include}", suite, str(root))
    shutil.rmtree(root / "var/cache/apt/archives")
    shutil.rmtree(root / "var/lib/apt/lists")


def _go_build(target: Path, package: str, version: str, ldflags: str = "") -> None:
    if f"{package} {version} " not in (HERE / "go.mod").read_text():
        raise StandInError(f"{package} {version} is wanted, but images/go.mod pins another version")
    command = ["go", "build", "-trimpath", "-ldflags", f"-s -w {ldflags}", "-o", str(target), package]
    _run(*command, cwd=HERE, env={**os.environ, "CGO_ENABLED": "0"})


def _run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    if shutil.which(command[0]) is None:
        raise StandInError(f"{command[0]} is needed to build a stand-in: ./setup installs it")
    done = subprocess.run(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise StandInError(f"{command[0]} failed (exit code {done.returncode}):\n{tail}")


def _owner(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid
