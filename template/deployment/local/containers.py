"""The stack's containers: what each is made of, and how one sees that it answers.

The OpenID provider, the storage emulator and the service share one network namespace, as containers of
a pod do. So http://localhost:PORT means the same inside and outside, and the provider's issuer is one
URL for the browser and for the proxy. Nothing listens beyond this machine's loopback.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from docker.errors import APIError
from docker.models.containers import Container
from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.container import DockerContainer

from deployment.local.layout import DATABASE, DATABASE_PASSWORD, PASSPHRASE, Layout

CONFIG_FOLDER = "/secrets"
TOKEN_SECONDS = 12 * 60 * 60  # a working day

Check = Callable[[Container], bool]


@dataclass(frozen=True)
class Part:
    """A container before it is started, the engine's options for it, and what says that it is ready."""

    name: str
    container: DockerContainer
    check: Check
    options: dict[str, Any] = field(default_factory=dict)


def database(layout: Layout) -> Part:
    """Postgres, its data in a volume, on the stack's own network only."""
    container = PostgresContainer(
        layout.settings.images.postgres, username=DATABASE, password=DATABASE_PASSWORD, dbname=DATABASE
    )
    container.ports.clear()
    container.with_volume_mapping(layout.name("database"), "/var/lib/postgresql/data", "rw")
    # Postgres ends its clients' sessions at SIGINT; at SIGTERM it would wait for them.
    options = {"network": layout.name("network"), "stop_signal": "SIGINT"}
    return Part("database", container, _accepts(DATABASE), options)


def sign_in(layout: Layout) -> Part:
    """The OpenID provider, which holds the pod's network namespace and its ports."""
    container = DockerContainer(layout.name("sign-in"))
    command = ["--port", str(layout.port + 1), "--token-max-age", str(TOKEN_SECONDS)]
    for email in layout.users:
        claims = {"sub": email, "email": email, "email_verified": True}
        command += ["--user-claims", json.dumps(claims)]
    container.with_command(command)
    # testcontainers' own with_bind_ports would listen on every address of this machine.
    container.ports = {f"{port}/tcp": ("127.0.0.1", port) for port in layout.ports}  # type: ignore[misc]
    check = answers(f"{layout.issuer}/.well-known/openid-configuration")
    return Part("sign-in", container, check, {"network": layout.name("network")})


def storage(layout: Layout) -> Part:
    """The Cloud Storage emulator, its data in a volume."""
    container = DockerContainer(layout.settings.images.fake_gcs_server)
    container.with_command(
        ["-scheme", "http", "-port", str(layout.port + 2), "-external-url", layout.storage]
        + ["-public-host", f"localhost:{layout.port + 2}", "-filesystem-root", "/storage"]
        + ["-log-level", "warn"]
    )
    container.with_volume_mapping(layout.name("storage"), "/storage", "rw")
    check = answers(f"{layout.storage}/storage/v1/b")
    return Part("storage", container, check, {"network_mode": _pod(layout)})


def server(layout: Layout, cpus: int) -> Part:
    """The service: the built image, with the proxy's configuration from its volume."""
    container = _image(layout).with_volume_mapping(layout.name("config"), CONFIG_FOLDER, "ro")
    return Part("mlflow", container, answers(f"{layout.url}/ping"), _limits(layout, cpus))


def migration(layout: Layout, cpus: int) -> Part:
    """The built image, upgrading the database's schema."""
    container = _image(layout).with_command(["migrate"])
    options = {**_limits(layout, cpus), "entrypoint": ["tini", "--", "python3", "-m", "server"]}
    return Part("migrate", container, lambda _: True, options)


def _image(layout: Layout) -> DockerContainer:
    container = DockerContainer(layout.name("image"))
    host = layout.name("database")
    container.with_envs(
        **layout.settings.server_environment(hosts=[f"localhost:{layout.port}"], origins=[layout.url]),
        BACKEND_STORE_URI=f"postgresql+psycopg2://{DATABASE}:{DATABASE_PASSWORD}@{host}/{DATABASE}",
        OAUTH_PROXY_CONFIG=f"{CONFIG_FOLDER}/oauth2-proxy.cfg",
        MLFLOW_CRYPTO_KEK_PASSPHRASE=PASSPHRASE,
        PORT=str(layout.port),
        STORAGE_EMULATOR_HOST=layout.storage,
    )
    return container.with_tmpfs_mount("/tmp")  # noqa: S108


def _limits(layout: Layout, cpus: int) -> dict[str, Any]:
    """Cloud Run's: memory and CPU of the settings (as far as this machine has them), nothing to write."""
    memory = f"{layout.settings.memory_mib}m"
    return {
        "network_mode": _pod(layout),
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "mem_limit": memory,
        "memswap_limit": memory,
        "nano_cpus": min(layout.settings.cpu, cpus) * 10**9,
    }


def _pod(layout: Layout) -> str:
    return f"container:{layout.name('sign-in')}"


def answers(url: str) -> Check:
    """Return a check that the URL answers 200."""

    def check(_: Container) -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    return check


def _accepts(user: str) -> Check:
    """Over TCP: while the image initialises, Postgres answers on its socket only."""
    command = ["pg_isready", "--quiet", "--host", "127.0.0.1", "--username", user]

    def check(container: Container) -> bool:
        try:
            return bool(container.exec_run(command).exit_code == 0)
        except APIError:  # not running yet, or no longer
            return False

    return check
