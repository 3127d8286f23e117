"""One instance of a revision: a container with its CPU given or taken, and its requests counted."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from docker.errors import NotFound

from emulator.engine import address, discard
from emulator.run.container import PERIOD, Launcher, StartError
from emulator.run.workload import DEFAULT_PROBE, Workload
from emulator.web import Json

if TYPE_CHECKING:
    from emulator.cloud import Cloud

THROTTLED = 1000  # microseconds of each period: next to nothing, and the least that Linux takes
CONNECT_SECONDS = 0.5  # of one attempt; a container on this machine answers at once
STOP_SECONDS = 10  # https://cloud.google.com/run/docs/container-contract#instance-shutdown


class Instance:
    """A container of a revision."""

    def __init__(self, cloud: Cloud, launcher: Launcher, workload: Workload, revision: Json) -> None:
        """Describe it; `start` starts it.

        Args:
            cloud: whose it is.
            launcher: starts the container.
            workload: what it runs.
            revision: project, service, revision and region, by these names.
        """
        self._cloud, self._launcher, self.workload, self._revision = cloud, launcher, workload, revision
        self.id = uuid.uuid4().hex
        self.in_flight = 0
        self.idle_since = time.monotonic()
        self.ended = threading.Event()
        self.exit_code: int | None = None
        self.stopping = False
        self._log = {
            "resource": {
                "type": "cloud_run_revision",
                "labels": {
                    "project_id": revision["project"],
                    "location": revision["region"],
                    "service_name": revision["service"],
                    "revision_name": revision["revision"],
                    "configuration_name": revision["service"],
                },
            },
            "labels": {"instanceId": self.id},
        }

    def start(self) -> None:
        """Start the container and wait until its startup probe succeeds; full CPU until then.

        Raises:
            StartError: it does not.
        """
        revision = self._revision
        extra = {
            "PORT": str(self.workload.port),
            "K_SERVICE": revision["service"],
            "K_REVISION": revision["revision"],
            "K_CONFIGURATION": revision["service"],
            "CLOUD_RUN_TIMEOUT_SECONDS": str(self.workload.timeout),
        }
        name = self._cloud.engine.name("run", revision["revision"], self.id[:8])
        self._container = self._launcher.launch(self.workload, revision["project"], name, extra, self._log)
        self.address = address(self._container)
        self._quota_file = _quota_file(int(self._container.attrs["State"]["Pid"]))
        threading.Thread(target=self._watch, daemon=True).start()
        if not self.address:  # it has ended already
            self.ended.wait()
        try:
            self._probe()
        except StartError:
            self.stop()
            raise
        self._set_cpu(full=not self.workload.throttled)

    def connect(self, port: int, timeout: float) -> socket.socket:
        """Connect to the container, while it lives.

        The address of one that is gone does not refuse: nothing answers there, for up to a minute.

        Raises:
            OSError: it refuses, has ended, or does not answer within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not self.ended.is_set():
            try:
                sock = socket.create_connection((self.address, port), min(timeout, CONNECT_SECONDS))
            except TimeoutError:
                if time.monotonic() >= deadline:
                    raise
            else:
                sock.settimeout(timeout)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
        raise ConnectionResetError(f"the container has ended with exit code {self.exit_code}")

    def begin(self) -> None:
        """Count a request in; the first has the CPU given."""
        self.in_flight += 1
        if self.in_flight == 1 and self.workload.throttled:
            self._set_cpu(full=True)

    def end(self) -> None:
        """Count a request out; with the last the CPU is taken."""
        self.in_flight -= 1
        self.idle_since = time.monotonic()
        if self.in_flight == 0 and self.workload.throttled and not self.stopping:
            self._set_cpu(full=False)

    def stop(self) -> None:
        """Ask it to end with TERM, kill it after 10 s, and remove it."""
        self.stopping = True
        self._set_cpu(full=True)
        if not self.ended.is_set():
            self._container.stop(timeout=STOP_SECONDS)
        self.ended.wait(STOP_SECONDS)
        self._launcher.accounts.pop(self.address, None)
        discard(self._container)

    def _set_cpu(self, *, full: bool) -> None:
        quota = int(self.workload.cpu * PERIOD) if full else THROTTLED
        try:
            self._quota_file.write_text(
                f"{quota} {PERIOD}" if self._quota_file.name == "cpu.max" else str(quota)
            )
        except OSError:
            if not self.ended.is_set() and self._quota_file.exists():
                self._container.update(cpu_quota=quota)

    def _watch(self) -> None:
        """Notice the container's end, and log it as Cloud Run does unless it was asked for."""
        self.exit_code = int(self._container.wait()["StatusCode"])
        self._launcher.drain(self._container)
        if not self.stopping:
            with contextlib.suppress(NotFound):  # it went with the whole cloud
                self._log_end()
        self.ended.set()
        self._cloud.run.ended(self)

    def _log_end(self) -> None:
        self._container.reload()
        if self._container.attrs["State"]["OOMKilled"]:
            megabytes = self.workload.memory // 1024**2
            advice = "Consider increasing the memory limit."
            self.log("ERROR", f"Memory limit of {megabytes} MiB exceeded. {advice}")
        self.log("WARNING", f"Container called exit({self.exit_code}).")

    def log(self, severity: str, text: str) -> None:
        """Write an entry of Cloud Run's own about this instance."""
        name = f"projects/{self._revision['project']}/logs/run.googleapis.com%2Fvarlog%2Fsystem"
        self._cloud.logs.write({**self._log, "logName": name, "severity": severity, "textPayload": text})

    def _probe(self) -> None:
        """Wait until the startup probe succeeds.

        Raises:
            StartError: the container ended, or the probe failed as often as it may.
        """
        probe = {**{"timeoutSeconds": 1, "periodSeconds": 10, "failureThreshold": 3}, **self.workload.probe}
        default = "httpGet" not in probe and DEFAULT_PROBE.items() <= probe.items()
        # the default is one long attempt: to connect again and again comes to the same
        attempts = 240 * 20 if default else int(probe["failureThreshold"])
        period = 0.05 if default else float(probe["periodSeconds"])
        self.ended.wait(float(probe.get("initialDelaySeconds", 0)))
        for attempt in range(attempts):
            if self.ended.is_set():
                break
            if self._succeeds(probe):
                return
            self.ended.wait(period if attempt + 1 < attempts else 0)
        limit = (
            f"the container ended with exit code {self.exit_code}"
            if self.ended.is_set()
            else "the probe failed"
        )
        raise StartError(
            "HealthCheckContainerError",
            "The user-provided container failed to start and listen on the port defined provided by the "
            f"PORT={self.workload.port} environment variable within the allocated timeout ({limit}). Logs "
            "for this revision might contain more information.",
        )

    def _succeeds(self, probe: Json) -> bool:
        get = probe.get("httpGet")
        timeout = float(probe["timeoutSeconds"])
        port = int((get or probe.get("tcpSocket") or {}).get("port") or self.workload.port)
        try:
            if get is None:
                self.connect(port, timeout).close()
                return True
            connection = http.client.HTTPConnection(self.address, port)
            connection.sock = self.connect(port, timeout)
            headers = {h["name"]: h.get("value", "") for h in get.get("httpHeaders", [])}
            connection.request("GET", get.get("path", "/"), headers=headers)
            return 200 <= connection.getresponse().status < 400
        except (OSError, http.client.HTTPException):
            return False


def _quota_file(pid: int) -> Path:
    """Return the file of a process' control group that holds the CPU quota; none when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return Path("/dev/null")
    groups = [line.split(":", 2) for line in lines]
    for _, controllers, path in groups:
        if "cpu" in controllers.split(","):
            return Path("/sys/fs/cgroup/cpu") / path.lstrip("/") / "cpu.cfs_quota_us"
    return Path("/sys/fs/cgroup") / groups[-1][2].lstrip("/") / "cpu.max"
