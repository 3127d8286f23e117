"""Running a build: its source, its steps on the local engine, its images."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from emulator import objects
from emulator.errors import GoogleError, NotModelledError
from emulator.registry import local_image, may_push
from emulator.store import now
from emulator.web import Json

if TYPE_CHECKING:
    from emulator.cloud import Cloud

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


def run(cloud: Cloud, project: str, build: Json) -> None:
    """Run a build to its end, and write down how it ended."""
    file = log_file(cloud, build["id"])
    file.parent.mkdir(exist_ok=True)
    with file.open("w", buffering=1) as log, tempfile.TemporaryDirectory() as workspace:
        log.write(f'starting build "{build["id"]}"\n\n')
        _set(cloud, build, status="WORKING", startTime=now())
        try:
            _fetch(cloud, build, Path(workspace), log)
            for number, step in enumerate(build.get("steps", [])):
                _step(cloud, build, number, step, Path(workspace), log)
            images = [_push(cloud, project, build, _expand(n, build), log) for n in build.get("images", [])]
        except (BuildError, GoogleError) as error:
            log.write(f"ERROR: {error}\nERROR\n")
            status = getattr(error, "status", "FAILURE")
            status = status if isinstance(error, BuildError) else "FAILURE"
            _set(cloud, build, status=status, statusDetail=str(error), finishTime=now())
            return
        log.write("DONE\n")
        _set(cloud, build, status="SUCCESS", finishTime=now(), results={"images": images})


def _set(cloud: Cloud, build: Json, **changes: object) -> None:
    with cloud.store.lock:
        build.update(changes)
        cloud.store.save()


def _principal(build: Json) -> str:
    return f"serviceAccount:{build['serviceAccount'].split('/')[-1]}"


def _fetch(cloud: Cloud, build: Json, workspace: Path, log: io.TextIOBase) -> None:
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


def _expand(text: str, build: Json) -> str:
    """Replace $NAME and ${NAME}; $$ is a dollar.

    Raises:
        BuildError: a name is unknown.
    """
    known = {"PROJECT_ID": build["projectId"], "BUILD_ID": build["id"], "LOCATION": "global"}
    known |= build.get("substitutions", {})

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if match[0] == "$$":
            return "$"
        if name not in known:
            raise BuildError(f'"{name}" is not a valid built-in substitution', "INTERNAL_ERROR")
        return str(known[name])

    return re.sub(r"\$\$|\$\{(\w+)\}|\$([A-Z_][A-Z0-9_]*)", value, text)


def _step(cloud: Cloud, build: Json, number: int, step: Json, workspace: Path, log: io.TextIOBase) -> None:
    """Run a step. Those of the docker builder run by this machine's docker, the others in containers.

    Raises:
        BuildError: it fails.
    """
    unknown = set(step) - FIELDS
    if unknown or "script" in step:
        raise NotModelledError(f"build steps with {', '.join(sorted(unknown)) or 'script'}")
    image = step["name"]
    arguments = [_expand(argument, build) for argument in step.get("args", [])]
    environment = dict(e.split("=", 1) for e in (_expand(e, build) for e in step.get("env", [])))
    log.write(f"Starting Step #{number}\nStep #{number}: {image} {' '.join(arguments)}\n")
    if image.partition(":")[0] == DOCKER and step.get("entrypoint", "docker") == "docker":
        if arguments[:1] == ["push"]:
            _push(cloud, build["projectId"], build, arguments[-1], log)
            return
        folder = workspace / step.get("dir", "")
        given = {**os.environ, **environment, "DOCKER_BUILDKIT": environment.get("DOCKER_BUILDKIT", "0")}
        command = ["docker", *arguments]
    else:
        raise NotModelledError(f"build steps of the image {image}")
    process = subprocess.Popen(
        command, cwd=folder, env=given, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    for line in process.stdout or ():
        log.write(f"Step #{number}: {line}")
    if process.wait():
        raise BuildError(
            f'build step {number} "{image}" failed: step exited with non-zero status: {process.returncode}'
        )
    log.write(f"Finished Step #{number}\n")


def _push(cloud: Cloud, project: str, build: Json, name: str, log: io.TextIOBase) -> Json:
    """Push an image as the build's service account.

    Raises:
        BuildError: it may not, or there is no such image.
    """
    log.write(f"PUSH\nPushing {name}\n")
    with cloud.store.lock:
        may_push(cloud, _principal(build), name)
        digest = local_image(cloud, name)
    if digest is None:
        raise BuildError(f'failed to find one or more images after execution of build steps: ["{name}"]')
    return {"name": name, "digest": digest}
