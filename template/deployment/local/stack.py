"""The local stack's life: up, followed, down."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import requests
from docker.errors import APIError, NotFound
from docker.models.containers import Container
from testcontainers.core.config import testcontainers_config
from testcontainers.core.waiting_utils import WaitStrategy

from deployment import engine, proxy
from deployment.errors import DeploymentError
from deployment.local import containers
from deployment.local.containers import CONFIG_FOLDER, Check, Part
from deployment.local.interrupt import uninterrupted
from deployment.local.layout import CLIENT_ID, Layout

SERVER_UID = 65532  # whom the image runs as
READY_SECONDS = 120


class Stack:
    """One local stack, up or not.

    Raises:
        DeploymentError: no Docker engine answers.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.client = engine.connect()

    def up(self, *, migrate: bool = False) -> None:
        """Build the images, start all, and return when the service answers.

        What an earlier run left is replaced; the data of one is kept.

        Args:
            migrate: first upgrade the kept database's schema to the image's MLflow.

        Raises:
            DeploymentError: a port is taken, a build failed, or a container died.
        """
        testcontainers_config.ryuk_disabled = True  # a detached stack outlives this process
        layout, images = self.layout, self.layout.settings.images
        with _timed("image", "built"):
            engine.build_server(self.client, images, layout.name("image"), _saying("image"))
        with _timed("sign-in", "built"):
            engine.build_sign_in(self.client, images, layout.name("sign-in"), _saying("sign-in"))
        engine.pull(self.client, images.postgres, _saying("database"))
        engine.pull(self.client, images.fake_gcs_server, _saying("storage"))
        self.down()
        self._check_ports()
        try:
            self.client.networks.create(layout.name("network"), labels=layout.labels)
            # Three start at once; the first holds the pod's network namespace and its ports.
            makers = (containers.sign_in, containers.database, containers.storage)
            parts = [self._started(make(layout)) for make in makers]
            for part in parts:
                self._await(part)
            self._create_bucket()
            if migrate:
                with _timed("migrate", "done"):
                    self._migrate()
            self._write_configuration()
            self._await(self._started(containers.server(layout, self._cpus)))
        except BaseException:
            with uninterrupted():
                self.down()
            raise

    def _started(self, part: Part) -> Part:
        options = {"labels": self.layout.labels, **part.options}
        part.container.with_name(self.layout.name(part.name)).with_kwargs(**options)
        try:
            part.container.start()
        except APIError as error:
            raise DeploymentError(f"{part.name} cannot be started: {error.explanation}") from None
        return part

    def _await(self, part: Part) -> None:
        with _timed(part.name, "ready"):
            _Ready(part.check).wait_until_ready(part.container)

    def _check_ports(self) -> None:
        for port in self.layout.ports:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    raise DeploymentError(
                        f"port {port} of this machine is taken: stop what listens there, or choose "
                        "three others with --port"
                    ) from None

    def _create_bucket(self) -> None:
        body = f'{{"name": "{self.layout.settings.bucket}"}}'.encode()
        request = urllib.request.Request(
            f"{self.layout.storage}/storage/v1/b", body, {"Content-Type": "application/json"}
        )
        try:
            urllib.request.urlopen(request, timeout=10).close()
        except urllib.error.HTTPError as error:
            if error.code != 409:  # kept from an earlier run
                raise

    def _migrate(self) -> None:
        part = self._started(containers.migration(self.layout, self._cpus))
        container = part.container.get_wrapped_container()
        if container.wait()["StatusCode"]:
            raise died(container)
        container.remove()

    @property
    def _cpus(self) -> int:
        return int(self.client.info()["NCPU"])

    def _write_configuration(self) -> None:
        """Put the proxy's configuration into a volume: it must not stand in a file on this machine."""
        text = proxy.render(
            proxy.Provider("oidc", CLIENT_ID, "local", self.layout.issuer),
            url=self.layout.url,
            google_project=self.layout.settings.google_project,
            allowed_domains=self.layout.settings.allowed_domains,
            allowed_emails=self.layout.settings.allowed_people,
            cookie_secret=proxy.new_cookie_secret(),
        ).encode()
        entry = tarfile.TarInfo("oauth2-proxy.cfg")
        entry.size, entry.mode, entry.uid, entry.gid = len(text), 0o400, SERVER_UID, SERVER_UID
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.addfile(entry, io.BytesIO(text))
        self.client.volumes.create(self.layout.name("config"), labels=self.layout.labels)
        holder = self.client.containers.create(
            self.layout.name("image"), volumes={self.layout.name("config"): {"bind": CONFIG_FOLDER}}
        )
        try:
            holder.put_archive(CONFIG_FOLDER, archive.getvalue())
        finally:
            holder.remove()

    def summary(self) -> str:
        """Return what a user needs now: the address, the test users, the first run from Python."""
        refused = "mallory@elsewhere.test"
        invoke, python = "invoke", "python"
        if "UV" in os.environ:  # set by `uv run`: the same commands will do
            invoke = "uv run invoke"
            python = "uv run --no-project --with-requirements examples/requirements.txt python"
        return f"""
MLflow is up, behind sign-in.

  In the browser   {self.layout.url}
                   sign in as {" or ".join(self.layout.users[:2])}; {refused} is turned away
  From Python      export MLFLOW_TRACKING_URI={self.layout.url}
                   export MLFLOW_TRACKING_TOKEN=$({invoke} local-token --port {self.layout.port})
                   export STORAGE_EMULATOR_HOST={self.layout.storage}
                   {python} examples/train.py
"""

    def down(self, *, data: bool = False) -> bool:
        """Remove the stack's containers, network and configuration; return whether any was there.

        Args:
            data: remove the database and the artifacts too.
        """
        found = self._remove_containers()
        for network in self.client.networks.list(filters=self.layout.filter):
            with contextlib.suppress(NotFound):
                network.remove()
            found = True
        for name in [self.layout.name("config"), *(self.volumes() if data else [])]:
            with contextlib.suppress(NotFound):
                self.client.volumes.get(name).remove()
        return found

    def volumes(self) -> list[str]:
        """Return the names of the volumes that are there and hold data."""
        names = [self.layout.name("database"), self.layout.name("storage")]
        there = {volume.name for volume in self.client.volumes.list()}
        return [name for name in names if name in there]

    def logs(self, *, follow: bool = False, tail: str = "all") -> Iterator[str]:
        """Yield the service's log lines.

        Args:
            follow: go on with what is still to come.
            tail: begin with so many of the last lines; all of them by default.

        Raises:
            DeploymentError: the stack is not up.
        """
        try:
            container = self.client.containers.get(self.layout.name("mlflow"))
        except NotFound:
            raise DeploymentError("the local stack is not up: `invoke local-up` starts it") from None
        if tail != "all" and not tail.isdecimal():
            raise DeploymentError(f"--tail is {tail!r}: give a number of lines, or all")
        rest = b""
        for chunk in container.logs(stream=True, follow=follow, tail=tail if tail == "all" else int(tail)):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)

    def follow(self) -> None:
        """Print the service's log until it ends.

        Raises:
            DeploymentError: it ended by itself.
        """
        for line in self.logs(follow=True):
            print(line, flush=True)
        try:
            container = self.client.containers.get(self.layout.name("mlflow"))
            container.wait(condition="removed", timeout=2)
        except APIError:  # gone already
            pass
        except requests.RequestException:  # the time is up: it ended, and nobody removes it
            raise died(container) from None
        raise DeploymentError("the local stack was stopped from elsewhere")

    def _remove_containers(self) -> bool:
        containers = self.client.containers.list(all=True, filters=self.layout.filter)
        # The service first, so that it still finds its database; Postgres gets time to write.
        order = ["mlflow", "migrate", "storage", "database", "sign-in"]
        containers.sort(key=lambda c: order.index(c.name.removeprefix(self.layout.name(""))))
        for container in containers:
            try:
                if container.name == self.layout.name("database"):
                    container.stop(timeout=10)
                container.remove(force=True)
            except APIError:  # another local-down is at it, or was: until it is gone
                with contextlib.suppress(APIError):
                    container.wait(condition="removed", timeout=20)
        return bool(containers)


def _saying(part: str) -> Callable[[str], None]:
    return lambda text: print(f"{part:<9} {text}", flush=True)


@contextlib.contextmanager
def _timed(part: str, done: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    _saying(part)(f"{done} ({time.monotonic() - begin:.1f} s)")


class _Ready(WaitStrategy):
    """Wait until `check` holds, or fail at once with the log when the container has ended."""

    def __init__(self, check: Check) -> None:
        super().__init__()
        self.check = check

    def wait_until_ready(self, container: Any) -> None:
        wrapped: Container = container.get_wrapped_container()
        deadline = time.monotonic() + READY_SECONDS
        while not self.check(wrapped):
            wrapped.reload()
            if wrapped.status in ("exited", "dead"):
                raise died(wrapped)
            if time.monotonic() > deadline:
                raise DeploymentError(
                    f"{wrapped.name} did not answer within {READY_SECONDS} s:\n{last_lines(wrapped)}"
                )
            time.sleep(0.1)


def died(container: Container) -> DeploymentError:
    """Return the error that says how a container ended, with its last log lines."""
    container.reload()
    state = container.attrs["State"]
    why = "out of memory" if state.get("OOMKilled") else f"exit code {state.get('ExitCode')}"
    return DeploymentError(f"the container {container.name} ended ({why}):\n{last_lines(container)}")


def last_lines(container: Container) -> str:
    """Return a container's last log lines, indented."""
    tail = container.logs(tail=15).decode(errors="replace").rstrip()
    return "\n".join(f"  {line}" for line in tail.splitlines())
