"""Starting a container as Cloud Run does: environment, secrets, files, database sockets, limits, logs."""

from __future__ import annotations

import io
import json
import posixpath
import tarfile
import threading
from typing import TYPE_CHECKING

from docker.models.containers import Container
from docker.types import Mount

from emulator import registry
from emulator.apis import secretmanager, sqladmin
from emulator.engine import address
from emulator.errors import GoogleError
from emulator.run.workload import SecretRef, Workload
from emulator.web import Json

if TYPE_CHECKING:
    from emulator.cloud import Cloud

SYSTEM_LOG = "run.googleapis.com%2Fvarlog%2Fsystem"
PERIOD = 100_000  # of the CPU quota, in microseconds
AUTHORITY = "emulated-google-cloud/ca.pem"
ACCESSOR = "'Secret Manager Secret Accessor' role (roles/secretmanager.secretAccessor)"


class StartError(Exception):
    """A container cannot start. Has the reason that the condition Ready shows."""

    def __init__(self, reason: str, message: str) -> None:
        """Name the reason, in Cloud Run's own word, and say what is wrong."""
        super().__init__(message)
        self.reason = reason


class Launcher:
    """Starts containers for one project and keeps who they are."""

    def __init__(self, cloud: Cloud) -> None:
        """Work on a cloud."""
        self._cloud = cloud
        self._readers: dict[str, threading.Thread] = {}
        self.accounts: dict[str, str] = {}  # a running container's address: its service account

    def check(self, workload: Workload, project: str) -> str:
        """Check what Cloud Run checks before it starts anything, and return the image, pulled.

        Raises:
            StartError: the service account, the image or a secret is missing or may not be used.
        """
        cloud = self._cloud
        with cloud.store.lock:
            if workload.account not in cloud.store["service_accounts"]:
                message = f"Service account {workload.account} does not exist."
                raise StartError("ServiceAccountNotFound", message)
            references = [*workload.secret_environment.values()]
            references += [r for files in workload.secret_files.values() for r in files.values()]
            for reference in references:
                self._secret(reference, workload, project)
        # an image that was pulled may be gone from the registry, and still runs
        pulled = "@" in workload.image and registry.local(cloud, workload.image)
        return pulled or self._pull(self.find(workload.image), project)

    def find(self, image: str) -> str:
        """Return the name, by its digest, of an image that is in the registry.

        Raises:
            StartError: it is not.
        """
        try:
            with self._cloud.store.lock:
                return registry.resolve(self._cloud, image)
        except GoogleError as error:
            raise StartError("ContainerMissing", error.message) from None

    def _pull(self, name: str, project: str) -> str:
        try:
            return registry.pull(self._cloud, name, project)
        except GoogleError as error:
            raise StartError("ContainerMissing", error.message) from None

    def _secret(self, reference: SecretRef, workload: Workload, project: str) -> bytes:
        name = f"projects/{project}/secrets/{reference.secret}/versions/{reference.version}"
        shown = name.replace(project, self._cloud.number(project), 1)
        principal = f"serviceAccount:{workload.account}"
        if not self._cloud.allows(principal, "secretmanager.versions.access", name):
            raise StartError(
                "SecretsAccessCheckFailed",
                f"{reference.where}: Permission denied on secret: {shown} for Revision service account "
                f"{workload.account}. The service account used must be granted the {ACCESSOR} at the secret, "
                "project or higher level.",
            )
        try:
            return secretmanager.read_version(self._cloud, name)
        except GoogleError as error:
            message = f"{reference.where}: Secret {shown} was not found: {error.message}"
            raise StartError("SecretsAccessCheckFailed", message) from None

    def launch(
        self, workload: Workload, project: str, name: str, extra: dict[str, str], log: Json
    ) -> Container:
        """Start a container.

        Args:
            workload: what to run.
            project: whose it is.
            name: the container's.
            extra: variables that Cloud Run adds.
            log: `resource` and `labels` of its log entries.

        Raises:
            StartError: as `check` does.
        """
        cloud, image = self._cloud, self.check(workload, project)
        gateway = cloud.engine.gateway
        cloud.listen(gateway)
        files = {AUTHORITY: cloud.authority_file.read_bytes()}
        with cloud.store.lock:
            secret = {n: self._secret(r, workload, project) for n, r in workload.secret_environment.items()}
            for folder, items in workload.secret_files.items():
                for path, reference in items.items():
                    place = posixpath.join(folder, path).lstrip("/")
                    files[place] = self._secret(reference, workload, project)
            mounts = [Mount(folder, None, type="volume", no_copy=True) for folder in workload.secret_files]
            mounts += self._sockets(workload, project, log)
        authority = f"/{AUTHORITY}"
        outside = {
            "https_proxy": f"http://{gateway}:{cloud.port}",
            "no_proxy": "127.0.0.1,localhost",
            "SSL_CERT_FILE": authority,
            "REQUESTS_CA_BUNDLE": authority,
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": authority,
            "GCE_METADATA_HOST": f"{gateway}:{cloud.port}",
            "GCE_METADATA_IP": f"{gateway}:{cloud.port}",
        }
        given = {**workload.environment, **{n: v.decode() for n, v in secret.items()}}
        container = cloud.engine.create(
            image,
            name,
            entrypoint=workload.command or None,
            command=workload.arguments or None,
            environment={**outside, **extra, **given},
            mounts=mounts,
            mem_limit=workload.memory,
            memswap_limit=workload.memory,
            cpu_period=PERIOD,
            cpu_quota=int(workload.cpu * PERIOD) * (2 if workload.boost else 1),
        )
        container.put_archive("/", _archive(files))
        stream = container.attach(stream=True, stdout=True, stderr=True, logs=True, demux=True)
        try:
            container.start()
        except Exception as error:
            cloud.engine.remove(name)
            raise StartError("ContainerStartError", f"The container failed to start: {error}") from None
        self.accounts[address(container)] = workload.account
        reader = threading.Thread(target=self._keep_logs, args=(stream, log, project), daemon=True)
        reader.start()
        self._readers[str(container.id)] = reader
        return container

    def drain(self, container: Container) -> None:
        """Wait until all that an ended container wrote is in the log."""
        self._readers.pop(str(container.id)).join(10)

    def _sockets(self, workload: Workload, project: str, log: Json) -> list[Mount]:
        """The sockets of those databases that the service account may connect to."""
        mounts = []
        for connection in workload.databases:
            instance = connection.split(":")[-1]
            stored = self._cloud.store["sql_instances"].get(f"{project}:{instance}", {})
            principal = f"serviceAccount:{workload.account}"
            allowed = self._cloud.allows(principal, "cloudsql.instances.connect", f"projects/{project}")
            enabled = self._cloud.enabled("sqladmin.googleapis.com", project)
            if stored.get("connectionName") == connection and allowed and enabled:
                server = sqladmin.database(self._cloud, project, instance)
                server.start()
                mounts.append(
                    Mount(f"/cloudsql/{connection}", server.socket_volume, type="volume", read_only=True)
                )
            else:
                text = (
                    "Cloud SQL connection failed. Please see "
                    "https://cloud.google.com/sql/docs/postgres/connect-run for additional details: ensure "
                    f'that the account has access to "{connection}" (and that there is no typo in it).'
                )
                entry = {"severity": "ERROR", "textPayload": text}
                self._cloud.logs.write({**log, **_log_name(project, SYSTEM_LOG), **entry})
        return mounts

    def _keep_logs(self, stream: object, log: Json, project: str) -> None:
        """Write a container's output to Cloud Logging, line by line."""
        rest = [b"", b""]
        for pieces in stream:  # type: ignore[attr-defined]
            for index, (name, piece) in enumerate(zip(("stdout", "stderr"), pieces, strict=True)):
                *lines, rest[index] = (rest[index] + (piece or b"")).split(b"\n")
                for line in lines:
                    entry = {**log, **_log_name(project, f"run.googleapis.com%2F{name}"), **_payload(line)}
                    self._cloud.logs.write(entry)
        for name, piece in zip(("stdout", "stderr"), rest, strict=True):
            if piece:
                entry = {**log, **_log_name(project, f"run.googleapis.com%2F{name}"), **_payload(piece)}
                self._cloud.logs.write(entry)


# Fields of a structured line that are the entry's own.
# https://cloud.google.com/logging/docs/structured-logging#special-payload-fields
LIFTED = {"httpRequest": "httpRequest", "logging.googleapis.com/trace": "trace"}


def _log_name(project: str, name: str) -> Json:
    return {"logName": f"projects/{project}/logs/{name}"}


def _payload(line: bytes) -> Json:
    """A line of JSON is a structured entry: https://cloud.google.com/run/docs/logging#using-json."""
    text = line.decode("utf-8", "replace").rstrip("\r")
    try:
        fields = json.loads(text)
    except ValueError:
        return {"textPayload": text}
    if not isinstance(fields, dict):
        return {"textPayload": text}
    entry = {"severity": str(fields.pop("severity", "DEFAULT")).upper()}
    entry |= {name: fields.pop(field) for field, name in LIFTED.items() if field in fields}
    if set(fields) == {"message"}:
        return {**entry, "textPayload": str(fields["message"])}
    return {**entry, "jsonPayload": fields}


def _archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(content), 0o444
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
