"""Where it is measured: the local stack of a rendered project, its service replaced by others."""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import copier
import docker
import yaml
from deployment.local import containers
from deployment.local.layout import CLIENT_ID, Layout
from deployment.local.stack import Stack
from deployment.local.token import local_token
from deployment.settings import Settings
from docker.models.containers import Container

from benchmarks.levers import LEVERS, TRIED, Lever, take_out
from images import standins

ROOT = Path(__file__).parent.parent
SCRATCH = ROOT / "build/benchmark"
SUBJECTS = Path(__file__).parent / "subjects"
SERVICE, PORT = "mlflow-benchmark", 27180
# One CPU for what is measured, the other for who measures and for what stands behind.
SERVER_CPU, CLIENT_CPU = "0", "1"
# What `mlflow server` is to find at its defaults
OWN_SETTINGS = ("MLFLOW_SERVE_ARTIFACTS", "MLFLOW_WORKERS", "MLFLOW_SQLALCHEMYSTORE_")
SEARCH = "experiments/search?max_results=5"
DEADLINE = 300.0  # seconds for a start


@dataclass(frozen=True)
class Subject:
    """What is measured: an image, and how its container is started."""

    name: str
    image: str
    memory: str = "512m"
    environment: dict[str, str] = field(default_factory=dict)
    defaults: bool = False  # of MLflow's: without the project's own settings


class Stage:
    """The database, the OpenID provider and the storage emulator, and one server at a time."""

    def __init__(self) -> None:
        """Render the project anew and have its images."""
        self.engine = docker.from_env(timeout=600)
        shutil.rmtree(SCRATCH, ignore_errors=True)
        self.project = render(SCRATCH / "project")
        settings = yaml.safe_load((self.project / "invoke.yaml").read_text())["deployment"]
        self.settings = Settings.load(settings)
        self.layout = Layout(self.settings, PORT)
        self.stack = Stack(self.layout)
        for image in ("python:3.13-slim-trixie", *vars(self.settings.images).values()):
            standins.ensure(self.engine, image)

    @contextmanager
    def up(self) -> Iterator[None]:
        """Have all but the service running."""
        os.chdir(self.project)
        self.stack.down(data=True)
        try:
            self.stack.up()
            self.engine.containers.get(self.layout.name("mlflow")).remove(force=True)
            for part in ("sign-in", "database", "storage"):
                self.engine.containers.get(self.layout.name(part)).update(cpuset_cpus=CLIENT_CPU)
            os.sched_setaffinity(0, {int(CLIENT_CPU)})
            yield
        finally:
            self.stack.down(data=True)

    @cached_property
    def token(self) -> str:
        """A test user's, for all of a run."""
        return local_token(self.layout.issuer, CLIENT_ID, self.layout.users[0])

    def build(self, name: str, folder: Path, **arguments: str) -> str:
        """Build an image and return its name."""
        tag = f"{SERVICE}:{name}"
        self.engine.images.build(path=str(folder), tag=tag, buildargs=arguments, rm=True, forcerm=True)
        return tag

    def build_service(self, name: str, folder: Path) -> str:
        """Build a rendered project's image and return its name."""
        images = self.settings.images
        return self.build(name, folder, PYTHON_IMAGE=images.python, OAUTH2_PROXY_IMAGE=images.oauth2_proxy)

    def without(self, lever: Lever) -> Subject:
        """Build the service without a lever, or with what was tried."""
        folder = SCRATCH / "without"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.project, folder)
        take_out(lever, folder)
        return Subject(lever.name, self.build_service(f"without-{(*LEVERS, *TRIED).index(lever)}", folder))

    @property
    def service(self) -> Subject:
        """The service as it is rendered."""
        return Subject("service", self.layout.name("image"))

    def subjects(self) -> dict[str, Subject]:
        """Build all that is compared, and return it by name."""
        images = self.settings.images
        recipe = SCRATCH / "recipe"
        shutil.copytree(SUBJECTS / "recipe", recipe)
        for name in ("start.sh", "pages"):
            target = recipe / "project" / name
            target.parent.mkdir(exist_ok=True)
            (shutil.copytree if name == "pages" else shutil.copy2)(self.project / name, target)
        plain = self.build("recipe", recipe, OAUTH2_PROXY_IMAGE=images.oauth2_proxy, MLFLOW=self.mlflow)
        floor = self.build("floor", SUBJECTS / "floor", SERVICE_IMAGE=self.service.image)
        no_jobs = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        one = {**no_jobs, "OPTIONS": "--workers 1", "MLFLOW_DISABLE_TELEMETRY": "true"}
        found = [
            self.service,
            Subject("floor", floor),
            Subject("recipe", plain, "8g", defaults=True),
            Subject("recipe without jobs", plain, "8g", no_jobs, defaults=True),
            Subject("recipe, one worker", plain, "8g", one, defaults=True),
        ]
        return {subject.name: subject for subject in found}

    @cached_property
    def mlflow(self) -> str:
        """The version of MLflow that the image pins."""
        lines = (self.project / "server/requirements.lock").read_text().splitlines()
        return next(line.split("==")[1].split()[0] for line in lines if line.startswith("mlflow=="))

    @contextmanager
    def running(
        self, subject: Subject, *, memory: str = "", script: Path | None = None
    ) -> Iterator[Container]:
        """Start a subject's container, with one CPU and Cloud Run's restrictions; afterwards it is gone.

        Args:
            subject: whose.
            memory: its limit, if not the subject's.
            script: run this Python script in it, instead of what the image starts.
        """
        part = containers.server(self.layout, 1)
        environment = {
            name: value
            for name, value in part.container.env.items()
            if not (subject.defaults and name.startswith(OWN_SETTINGS))
        }
        limit = memory or subject.memory
        volumes = dict(part.container.volumes)
        if script:
            volumes[str(script)] = {"bind": "/script.py", "mode": "ro"}
        container = self.engine.containers.run(
            subject.image,
            detach=True,
            environment={**environment, **subject.environment},
            volumes=volumes,
            tmpfs={"/tmp": ""},  # noqa: S108
            cpuset_cpus=SERVER_CPU,
            **{**part.options, "mem_limit": limit, "memswap_limit": limit},
            **({"entrypoint": ["python3", "-W", "ignore", "/script.py"]} if script else {}),
        )
        try:
            yield container
        finally:
            container.remove(force=True)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask MLflow's API once, with a token, and return its answer.

        Raises:
            urllib.error.HTTPError: it answers with an error.
            OSError: it does not answer.
        """
        request = urllib.request.Request(
            f"{self.layout.url}/api/2.0/mlflow/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=120) as got:
            return json.load(got)

    def answer(self, container: Container) -> None:
        """Ask with a token until the API answers.

        Raises:
            RuntimeError: the container ended, or does not answer.
        """
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            try:
                self.ask("GET", SEARCH)
                return
            except urllib.error.HTTPError as error:
                if error.code < 500:  # noqa: PLR2004
                    raise
                time.sleep(0.005)  # a worker of the recipe's that died meanwhile, say
            except OSError:
                container.reload()
                if container.status == "exited":
                    break
                time.sleep(0.005)
        raise RuntimeError(f"{container.image} does not answer:\n{container.logs(tail=20).decode()}")


def render(folder: Path) -> Path:
    """Render the default answers, under a service name of the benchmark's own."""
    copier.run_copy(
        str(ROOT),
        folder,
        data={"service": SERVICE},
        defaults=True,
        quiet=True,
        vcs_ref="HEAD",
        overwrite=True,
    )
    return folder


def used(container: Container) -> tuple[float, float]:
    """Return a container's CPU seconds so far, and the MiB that it holds.

    Memory is as Docker and Kubernetes count it: without the files that can be dropped at once.
    """
    stats = container.stats(stream=False, one_shot=True)
    memory = stats["memory_stats"]
    inactive = memory["stats"].get("total_inactive_file", memory["stats"].get("inactive_file", 0))
    return stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9, (memory["usage"] - inactive) / 2**20


def quiet(container: Container) -> None:
    """Wait until a container does next to nothing for a second, half a minute at most."""
    before, _ = used(container)
    for _ in range(30):
        time.sleep(1)
        now, _ = used(container)
        if now - before < 0.02:  # noqa: PLR2004
            return
        before = now
