"""The whole service on this machine: production's image and proxy configuration, and what they need.

That is a Postgres, a Cloud Storage emulator and an OpenID provider.

The provider, the emulator and the service share one network namespace, as containers of a pod do.
So http://localhost:PORT means the same inside and outside, and the provider's issuer is one URL for
the browser and for the proxy. Nothing listens beyond this machine's loopback.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import requests
from docker.errors import APIError, NotFound
from docker.models.containers import Container
from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.waiting_utils import WaitStrategy

from deployment import engine, proxy
from deployment.errors import DeploymentError
from deployment.settings import Settings
from server.environment import PORT as MLFLOW_PORT

CLIENT_ID = "mlflow-local"
DATABASE = "mlflow"
# Postgres is reachable from the stack's own network only; the data it keeps outlives a run, so its
# password and MLflow's passphrase cannot be drawn anew for each.
DATABASE_PASSWORD = "local"  # noqa: S105
PASSPHRASE = "local"  # noqa: S105
SERVER_UID = 65532
READY_SECONDS = 120
CONFIG_FOLDER = "/secrets"

Say = Callable[[str, str], None]
Step = Callable[[], str]  # does the work and says what was done


@dataclass
class Stack:
    """One local stack: its settings and port give every name and address.

    The proxy listens on `port`, the OpenID provider on the next one, the storage emulator on the
    one after that.
    """

    settings: Settings
    port: int = 4180
    say: Say = field(default=lambda part, text: print(f"{part:<9} {text}", flush=True))

    def __post_init__(self) -> None:
        if not 1024 <= self.port <= 65533 or MLFLOW_PORT in self.ports:
            raise DeploymentError(
                f"--port is {self.port}: give one from 1024 to 65533, so that it and the two after "
                f"it leave out {MLFLOW_PORT}, where MLflow listens inside"
            )
        self.client = engine.connect()

    @property
    def ports(self) -> tuple[int, int, int]:
        """The ports on this machine's loopback: proxy, OpenID provider, storage emulator."""
        return self.port, self.port + 1, self.port + 2

    @property
    def url(self) -> str:
        """The service's address."""
        return f"http://localhost:{self.port}"

    @property
    def issuer(self) -> str:
        """The OpenID provider's address."""
        return f"http://localhost:{self.port + 1}"

    @property
    def storage(self) -> str:
        """The storage emulator's address."""
        return f"http://localhost:{self.port + 2}"

    @property
    def users(self) -> list[str]:
        """Test users who may enter: two for each domain, and each single address."""
        people = [f"{name}@{d}" for d in self.settings.allowed_domains for name in ("alice", "bob")]
        return [*people, *self.settings.allowed_emails]

    def name(self, part: str) -> str:
        """Return the name of a container, volume, network or image of this stack."""
        return f"{self.settings.service}-local-{part}"

    @property
    def _labels(self) -> dict[str, str]:
        return {"mlflow-local": self.settings.service}

    # Up ---------------------------------------------------------------------------------------

    def up(self, *, migrate: bool = False) -> None:
        """Build the images, start all, and return when the service answers.

        What an earlier run left is replaced; the data of one is kept.

        Args:
            migrate: first upgrade the kept database's schema to the image's MLflow.

        Raises:
            DeploymentError: a port is taken, a build failed, or a container died.
        """
        testcontainers_config.ryuk_disabled = True  # a detached stack outlives this process
        self._timed("image", self._build)
        self._timed("sign-in", self._build_sign_in)
        engine.pull(self.client, self.settings.images.postgres, self._saying("database"))
        engine.pull(self.client, self.settings.images.fake_gcs_server, self._saying("storage"))
        self.down()
        self._check_ports()
        try:
            self.client.networks.create(self.name("network"), labels=self._labels)
            # Three start at once; the first holds the pod's network namespace and its ports.
            sign_in, database = self._start_sign_in(), self._start_database()
            storage = self._start_storage()
            self._timed("sign-in", sign_in)
            self._timed("database", database)
            self._timed("storage", storage)
            self._create_bucket()
            if migrate:
                self._timed("migrate", self._migrate)
            self._write_configuration()
            self._timed("mlflow", self._start_mlflow())
        except BaseException:
            with uninterrupted():
                self.down()
            raise

    def _saying(self, part: str) -> Callable[[str], None]:
        return lambda text: self.say(part, text)

    def _timed(self, part: str, step: Callable[[], str]) -> None:
        begin = time.monotonic()
        done = step()
        self.say(part, f"{done} ({time.monotonic() - begin:.1f} s)")

    def _build(self) -> str:
        engine.build_server(self.client, self.settings.images, self.name("image"), self._saying("image"))
        return "built"

    def _build_sign_in(self) -> str:
        engine.build_sign_in(self.client, self.settings.images, self.name("sign-in"), self._saying("sign-in"))
        return "built"

    def _check_ports(self) -> None:
        for port in self.ports:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    raise DeploymentError(
                        f"port {port} of this machine is taken: stop what listens there, or choose "
                        "three others with --port"
                    ) from None

    def _start_database(self) -> Step:
        container = PostgresContainer(
            self.settings.images.postgres,
            username=DATABASE,
            password=DATABASE_PASSWORD,
            dbname=DATABASE,
        )
        container.ports.clear()  # for the stack's own network only
        container.with_volume_mapping(self.name("database"), "/var/lib/postgresql/data", "rw")
        # Postgres ends its clients' sessions at SIGINT; at SIGTERM it would wait for them.
        options = {"network": self.name("network"), "stop_signal": "SIGINT"}
        return self._start(container, "database", _accepts(DATABASE), **options)

    def _start_sign_in(self) -> Step:
        container = DockerContainer(self.name("sign-in"))
        container.with_command(["--port", str(self.port + 1), "--token-max-age", "43200", *self._claims()])
        # testcontainers' own with_bind_ports would listen on every address of this machine.
        container.ports = {f"{port}/tcp": ("127.0.0.1", port) for port in self.ports}  # type: ignore[misc]
        check = _answers(f"{self.issuer}/.well-known/openid-configuration")
        return self._start(container, "sign-in", check, network=self.name("network"))

    def _claims(self) -> Iterator[str]:
        for email in self.users:
            yield "--user-claims"
            yield f'{{"sub": "{email}", "email": "{email}", "email_verified": true}}'

    def _start_storage(self) -> Step:
        container = DockerContainer(self.settings.images.fake_gcs_server)
        container.with_command(
            ["-scheme", "http", "-port", str(self.port + 2), "-external-url", self.storage]
            + ["-public-host", f"localhost:{self.port + 2}", "-filesystem-root", "/storage"]
            + ["-log-level", "warn"]
        )
        container.with_volume_mapping(self.name("storage"), "/storage", "rw")
        check = _answers(f"{self.storage}/storage/v1/b")
        return self._start(container, "storage", check, network_mode=self._pod)

    def _create_bucket(self) -> None:
        body = f'{{"name": "{self.settings.bucket}"}}'.encode()
        request = urllib.request.Request(
            f"{self.storage}/storage/v1/b", body, {"Content-Type": "application/json"}
        )
        try:
            urllib.request.urlopen(request, timeout=10).close()
        except urllib.error.HTTPError as error:
            if error.code != 409:  # kept from an earlier run
                raise

    def _start_mlflow(self) -> Step:
        container = self._server()
        container.with_volume_mapping(self.name("config"), CONFIG_FOLDER, "ro")
        return self._start(container, "mlflow", _answers(f"{self.url}/ping"), **self._limits())

    def _migrate(self) -> str:
        container = self._server().with_command(["migrate"])
        limits = {**self._limits(), "entrypoint": ["tini", "--", "python3", "-m", "server"]}
        self._start(container, "migrate", lambda _: True, **limits)
        wrapped = container.get_wrapped_container()
        if wrapped.wait()["StatusCode"]:
            raise self._died(wrapped)
        wrapped.remove()
        return "done"

    def _server(self) -> DockerContainer:
        container = DockerContainer(self.name("image"))
        container.with_envs(
            **self.settings.server_environment(hosts=[f"localhost:{self.port}"], origins=[self.url]),
            BACKEND_STORE_URI=(
                f"postgresql+psycopg2://{DATABASE}:{DATABASE_PASSWORD}@{self.name('database')}/{DATABASE}"
            ),
            OAUTH_PROXY_CONFIG=f"{CONFIG_FOLDER}/oauth2-proxy.cfg",
            MLFLOW_CRYPTO_KEK_PASSPHRASE=PASSPHRASE,
            PORT=str(self.port),
            STORAGE_EMULATOR_HOST=self.storage,
        )
        return container.with_tmpfs_mount("/tmp")  # noqa: S108

    def _limits(self) -> dict[str, Any]:
        """Cloud Run's: memory and CPU of the settings, nothing to write but /tmp."""
        return {
            "network_mode": self._pod,
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "mem_limit": f"{self.settings.memory_mib}m",
            "memswap_limit": f"{self.settings.memory_mib}m",
            "nano_cpus": min(self.settings.cpu, self.client.info()["NCPU"]) * 10**9,
        }

    @property
    def _pod(self) -> str:
        return f"container:{self.name('sign-in')}"

    def _write_configuration(self) -> None:
        """Put the proxy's configuration into a volume: it must not stand in a file on this machine."""
        text = proxy.render(
            proxy.Provider("oidc", CLIENT_ID, "local", self.issuer),
            url=self.url,
            allowed_domains=self.settings.allowed_domains,
            allowed_emails=self.settings.allowed_emails,
            cookie_secret=proxy.new_cookie_secret(),
        ).encode()
        entry = tarfile.TarInfo("oauth2-proxy.cfg")
        entry.size, entry.mode, entry.uid, entry.gid = len(text), 0o400, SERVER_UID, SERVER_UID
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.addfile(entry, io.BytesIO(text))
        self.client.volumes.create(self.name("config"), labels=self._labels)
        holder = self.client.containers.create(
            self.name("image"), volumes={self.name("config"): {"bind": CONFIG_FOLDER}}
        )
        try:
            holder.put_archive(CONFIG_FOLDER, archive.getvalue())
        finally:
            holder.remove()

    def _start(
        self, container: DockerContainer, part: str, check: Callable[[Container], bool], **options: Any
    ) -> Step:
        """Start a container; return the step that waits until it answers."""
        container.with_name(self.name(part)).with_kwargs(labels=self._labels, **options)
        try:
            container.start()
        except APIError as error:
            raise DeploymentError(f"{part} cannot be started: {error.explanation}") from None

        def wait() -> str:
            _Ready(self, check).wait_until_ready(container)
            return "ready"

        return wait

    def _died(self, container: Container) -> DeploymentError:
        container.reload()
        state = container.attrs["State"]
        why = "out of memory" if state.get("OOMKilled") else f"exit code {state.get('ExitCode')}"
        tail = container.logs(tail=15).decode(errors="replace").rstrip()
        lines = "\n".join(f"  {line}" for line in tail.splitlines())
        return DeploymentError(f"the container {container.name} ended ({why}):\n{lines}")

    def summary(self) -> str:
        """Return what a user needs now: the address, the test users, the first run from Python."""
        refused = "mallory@elsewhere.test"
        invoke, python = "invoke", "python"
        if "UV" in os.environ:  # set by `uv run`: the same commands will do
            invoke = "uv run invoke"
            python = "uv run --no-project --with-requirements examples/requirements.txt python"
        return f"""
MLflow is up, behind sign-in.

  In the browser   {self.url}
                   sign in as {" or ".join(self.users[:2])}; {refused} is turned away
  From Python      export MLFLOW_TRACKING_URI={self.url}
                   export MLFLOW_TRACKING_TOKEN=$({invoke} local-token --port {self.port})
                   export STORAGE_EMULATOR_HOST={self.storage}
                   {python} examples/train.py
"""

    # Down, logs -------------------------------------------------------------------------------

    def down(self, *, data: bool = False) -> bool:
        """Remove the stack's containers, network and configuration; return whether any was there.

        Args:
            data: remove the database and the artifacts too.
        """
        found = self._remove_containers()
        for network in self.client.networks.list(filters=self._filter):
            with contextlib.suppress(NotFound):
                network.remove()
            found = True
        for volume in self.client.volumes.list(filters={"name": self.name("")}):
            if data or volume.name == self.name("config"):
                with contextlib.suppress(NotFound):
                    volume.remove()
        return found

    def volumes(self) -> list[str]:
        """Return the names of the volumes that hold data."""
        names = [v.name for v in self.client.volumes.list(filters={"name": self.name("")})]
        return sorted(name for name in names if name != self.name("config"))

    def logs(self, *, follow: bool = False, tail: str = "all") -> Iterator[str]:
        """Yield the service's log lines.

        Args:
            follow: go on with what is still to come.
            tail: begin with so many of the last lines; all of them by default.

        Raises:
            DeploymentError: the stack is not up.
        """
        try:
            container = self.client.containers.get(self.name("mlflow"))
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
            container = self.client.containers.get(self.name("mlflow"))
            container.wait(condition="removed", timeout=2)
        except APIError:  # gone already
            pass
        except requests.RequestException:  # the time is up: it ended, and nobody removes it
            raise self._died(container) from None
        raise DeploymentError("the local stack was stopped from elsewhere")

    @property
    def _filter(self) -> dict[str, str]:
        return {"label": f"mlflow-local={self.settings.service}"}

    def _remove_containers(self) -> bool:
        containers = self.client.containers.list(all=True, filters=self._filter)
        # The service first, so that it still finds its database; Postgres gets time to write.
        order = ["mlflow", "migrate", "storage", "database", "sign-in"]
        containers.sort(key=lambda c: order.index(c.name.removeprefix(self.name(""))))
        for container in containers:
            try:
                if container.name == self.name("database"):
                    container.stop(timeout=10)
                container.remove(force=True)
            except APIError:  # another local-down is at it, or was: until it is gone
                with contextlib.suppress(APIError):
                    container.wait(condition="removed", timeout=20)
        return bool(containers)


@dataclass
class _Ready(WaitStrategy):
    """Wait until `check` holds, or fail at once with the log when the container has ended."""

    stack: Stack
    check: Callable[[Container], bool]

    def wait_until_ready(self, container: Any) -> None:
        wrapped: Container = container.get_wrapped_container()
        deadline = time.monotonic() + READY_SECONDS
        while not self.check(wrapped):
            wrapped.reload()
            if wrapped.status in ("exited", "dead"):
                raise self.stack._died(wrapped)
            if time.monotonic() > deadline:
                tail = wrapped.logs(tail=15).decode(errors="replace")
                raise DeploymentError(f"{wrapped.name} did not answer within {READY_SECONDS} s:\n{tail}")
            time.sleep(0.1)


def _answers(url: str) -> Callable[[Container], bool]:
    def check(_: Container) -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    return check


def _accepts(user: str) -> Callable[[Container], bool]:
    """Over TCP: while the image initialises, Postgres answers on its socket only."""
    command = ["pg_isready", "--quiet", "--host", "127.0.0.1", "--username", user]

    def check(container: Container) -> bool:
        try:
            return bool(container.exec_run(command).exit_code == 0)
        except APIError:  # not running yet, or no longer
            return False

    return check


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Make SIGTERM end the stack as Ctrl-C does."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Keep a second Ctrl-C from cutting the cleaning short."""
    before = [(s, signal.signal(s, signal.SIG_IGN)) for s in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
