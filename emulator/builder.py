"""Running a build: its source, its steps on the local engine, its images."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from emulator import objects
from emulator.errors import GoogleError, NotModelledError
from emulator.registry import HOST, resolve
from emulator.store import now
from emulator.web import Json

if TYPE_CHECKING:
    from emulator.cloud import Cloud

KEEP = 0.5  # seconds between two times that a growing log is put into its bucket
DOCKER = "gcr.io/cloud-builders/docker"
FIELDS = {
    "id",
    "name",
    "args",
    "entrypoint",
    "env",
    "dir",
    "waitFor",
    "timeout",
    "status",
    "timing",
    "script",
}


class BuildError(Exception):
    """A build fails. Has the status that it ends with in `status`."""

    def __init__(self, message: str, status: str = "FAILURE") -> None:
        """Say what failed."""
        super().__init__(message)
        self.status = status


def log_file(cloud: Cloud, identifier: str) -> Path:
    """Return the file that a build's log is in."""
    return cloud.folder / "builds" / f"{identifier}.log"


def run(cloud: Cloud, build: Json) -> None:
    """Run a build to its end, and write down how it ended."""
    file = log_file(cloud, build["id"])
    file.parent.mkdir(exist_ok=True)
    with Log(cloud, build, file) as log, tempfile.TemporaryDirectory() as workspace:
        log.write(f'starting build "{build["id"]}"\n\n')
        _set(cloud, build, status="WORKING", startTime=now())
        try:
            _fetch(cloud, build, Path(workspace), log)
            for number, step in enumerate(build.get("steps", [])):
                _step(cloud, build, number, step, Path(workspace), log)
            images = [_push(cloud, build, expand(n, build), log) for n in build.get("images", [])]
        except (BuildError, GoogleError) as error:
            log.write(f"ERROR: {error}\nERROR\n")
            status = getattr(error, "status", "FAILURE")
            status = status if isinstance(error, BuildError) else "FAILURE"
            log.keep()
            _set(cloud, build, status=status, statusDetail=str(error), finishTime=now())
            return
        log.write("DONE\n")
        log.keep()
        _set(cloud, build, status="SUCCESS", finishTime=now(), results={"images": images})


class Log:
    """A build's log: a file, and, where the build names a bucket for it, an object that grows with it."""

    def __init__(self, cloud: Cloud, build: Json, file: Path) -> None:
        """Write to a file."""
        self._cloud, self._build = cloud, build
        self._text = file.open("w", buffering=1)
        self._file = file
        self._kept = 0.0

    def write(self, text: str) -> None:
        """Add to the log."""
        self._text.write(text)
        if time.monotonic() - self._kept > KEEP:
            self.keep()

    def keep(self) -> None:
        """Put what there is into the bucket, if it is one of the project's."""
        self._text.flush()
        self._kept = time.monotonic()
        bucket, _, folder = self._build["logsBucket"].removeprefix("gs://").partition("/")
        if not bucket.endswith(".googleusercontent.com"):  # Google's own
            name = f"{folder}/" * bool(folder) + f"log-{self._build['id']}.txt"
            objects.write(self._cloud, bucket, name, self._file.read_bytes())

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._text.close()


def _set(cloud: Cloud, build: Json, **changes: object) -> None:
    with cloud.store.lock:
        build.update(changes)
        cloud.store.save()


def _principal(build: Json) -> str:
    return f"serviceAccount:{build['serviceAccount'].split('/')[-1]}"


def _fetch(cloud: Cloud, build: Json, workspace: Path, log: Log) -> None:
    """Unpack the source from its bucket, as the build's service account."""
    source = build.get("source", {}).get("storageSource")
    if not source:
        return
    log.write(f"FETCHSOURCE\nFetching gs://{source['bucket']}/{source['object']}\n")
    with cloud.store.lock:
        cloud.require(_principal(build), "storage.objects.get", f"b/{source['bucket']}")
    content = objects.read(cloud, source["bucket"], source["object"])
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(workspace, filter="data")


def expand(text: str, build: Json) -> str:
    """Replace $NAME and ${NAME}; $$ is a dollar.

    Raises:
        BuildError: a name is unknown.
    """
    known = {"PROJECT_ID": build["projectId"], "BUILD_ID": build["id"], "LOCATION": "global"}
    given = build.get("substitutions", {})
    dynamic = build.get("options", {}).get("dynamicSubstitutions")
    known |= {n: expand(v, {**build, "substitutions": {}}) if dynamic else v for n, v in given.items()}

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if match[0] == "$$":
            return "$"
        if name not in known:
            raise BuildError(f'"{name}" is not a valid built-in substitution', "INTERNAL_ERROR")
        return str(known[name])

    return re.sub(r"\$\$|\$\{(\w+)\}|\$([A-Z_][A-Z0-9_]*)", value, text)


def _step(cloud: Cloud, build: Json, number: int, step: Json, workspace: Path, log: Log) -> None:
    """Run a step of the docker builder by this machine's docker.

    Raises:
        BuildError: it fails.
    """
    unknown = set(step) - FIELDS
    if unknown or "script" in step:
        raise NotModelledError(f"build steps with {', '.join(sorted(unknown)) or 'script'}")
    image = step["name"]
    arguments = [expand(argument, build) for argument in step.get("args", [])]
    environment = dict(e.split("=", 1) for e in (expand(e, build) for e in step.get("env", [])))
    log.write(f"Starting Step #{number}\nStep #{number}: {image} {' '.join(arguments)}\n")
    if image.partition(":")[0] != DOCKER or step.get("entrypoint", "docker") != "docker":
        raise NotModelledError(f"build steps of the image {image}")
    code, _ = _docker(
        cloud, build, arguments, log, f"Step #{number}: ", workspace / step.get("dir", ""), environment
    )
    if code:
        raise BuildError(f'build step {number} "{image}" failed: step exited with non-zero status: {code}')
    log.write(f"Finished Step #{number}\n")


def _docker(
    cloud: Cloud,
    build: Json,
    arguments: list[str],
    log: Log,
    prefix: str = "",
    folder: Path | None = None,
    environment: dict[str, str] | None = None,
) -> tuple[int, str]:
    """Run docker, signed in to Artifact Registry as the build's service account.

    Returns:
        Its exit code, and its last line.
    """
    hosts = set(re.findall(rf"\b{HOST}\b", " ".join(arguments)))
    with cloud.store.lock:
        token = cloud.identity.access_token(_principal(build))
    login = base64.b64encode(f"oauth2accesstoken:{token}".encode()).decode()
    with tempfile.TemporaryDirectory() as home:  # mode 0700
        Path(home, "config.json").write_text(json.dumps({"auths": {host: {"auth": login} for host in hosts}}))
        given = {"DOCKER_BUILDKIT": "0", **(environment or {})}
        ours = {"DOCKER_HOST": f"unix://{cloud.docker.path}", "DOCKER_CONFIG": home}
        process = subprocess.Popen(
            ["docker", *arguments],
            cwd=folder,
            env={**os.environ, **given, **ours},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        line = ""
        for line in process.stdout or ():
            log.write(prefix + line)
        return process.wait(), line.strip()


def _push(cloud: Cloud, build: Json, name: str, log: Log) -> Json:
    """Push an image as the build's service account.

    Raises:
        BuildError: it may not, or there is no such image.
    """
    log.write(f"PUSH\nPushing {name}\n")
    if cloud.engine.find_image(name) is None:
        raise BuildError(f'failed to find one or more images after execution of build steps: ["{name}"]')
    code, line = _docker(cloud, build, ["push", name], log)
    if code:
        raise BuildError(f'error pushing image "{name}": {line}')
    with cloud.store.lock:
        return {"name": name, "digest": resolve(cloud, name).partition("@")[2]}
