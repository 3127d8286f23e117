"""All revisions' instances, and bringing a service to what its specification says."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from emulator.errors import GoogleError
from emulator.run.container import Launcher, StartError
from emulator.run.instance import Instance
from emulator.run.names import hosts
from emulator.run.pool import Pool
from emulator.run.workload import Workload, read
from emulator.store import now
from emulator.web import Json

if TYPE_CHECKING:
    from emulator.cloud import Cloud

log = logging.getLogger("emulator")
IDLE_SECONDS = 900.0  # https://cloud.google.com/run/docs/about-instance-autoscaling#idle-instances
LOOK_SECONDS = 5.0


class Runtime:
    """Cloud Run's data plane. A service's or revision's key is PROJECT/REGION/NAME."""

    def __init__(self, cloud: Cloud) -> None:
        """Begin with nothing running: a revision comes up with its first request."""
        self._cloud = cloud
        self.launcher = Launcher(cloud)
        self.idle_seconds = IDLE_SECONDS
        self._pools: dict[str, Pool] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._looking = False
        self._reconciling: dict[str, threading.Lock] = {}

    def workload(self, revision: Json) -> Workload:
        """Return what a revision asks for."""
        account = self.default_account(revision["metadata"]["namespace"])
        workload = read(revision["metadata"].get("annotations", {}), revision["spec"], account)
        # a tag may move; what it was when the revision was made is what runs
        return replace(workload, image=revision["status"].get("imageDigest", workload.image))

    def default_account(self, project: str) -> str:
        """Return the account of whoever names none."""
        return f"{self._cloud.number(project)}-compute@developer.gserviceaccount.com"

    def pool(self, key: str) -> Pool:
        """Return the instances of a revision."""
        with self._lock:
            if key not in self._pools:
                project, region, name = key.split("/")
                revision = self._cloud.store["run_revisions"][key]
                workload = self.workload(revision)
                names = {
                    "project": project,
                    "region": region,
                    "revision": name,
                    "service": revision["metadata"]["labels"]["serving.knative.dev/service"],
                }
                self._pools[key] = Pool(
                    workload, lambda: Instance(self._cloud, self.launcher, workload, names)
                )
            if not self._looking:
                self._looking = True
                threading.Thread(target=self._look_after, daemon=True).start()
            return self._pools[key]

    def ended(self, instance: Instance) -> None:
        """Forget an instance that has ended."""
        with self._lock:
            pools = list(self._pools.values())
        for pool in pools:
            pool.remove(instance)

    def _look_after(self) -> None:
        """Stop idle instances, and have the minimum of those revisions that have traffic."""
        while not self._closed.wait(LOOK_SECONDS):
            self.scale_down(self.idle_seconds)

    def scale_down(self, idle_seconds: float) -> None:
        """Stop the instances that have been idle so long; 0 stops every idle one above the minimum."""
        with self._lock:
            pools = dict(self._pools)
        for key, pool in pools.items():
            pool.scale_down(idle_seconds, self._minimum(key))

    def _minimum(self, key: str) -> int:
        """The minimum counts for revisions with traffic only."""
        with self._cloud.store.lock:
            revision = self._cloud.store["run_revisions"].get(key)
            if revision is None:
                return 0
            place = key.rpartition("/")[0]
            name = revision["metadata"]["labels"]["serving.knative.dev/service"]
            service = self._cloud.store["run_services"].get(f"{place}/{name}", {})
            traffic = service.get("status", {}).get("traffic", [])
            serves = any(t["revisionName"] == revision["metadata"]["name"] for t in traffic)
            return self.workload(revision).minimum if serves else 0

    def drop(self, key: str) -> None:
        """Stop a revision's instances for good."""
        with self._lock:
            pool = self._pools.pop(key, None)
        if pool:
            self._cloud.background(pool.scale_down, -1.0, 0)

    def close(self) -> None:
        """Stop looking after instances; the engine removes the containers."""
        self._closed.set()

    def reconcile(self, key: str, operation: str) -> None:
        """Bring a service to its specification, then end the operation."""
        with self._lock:
            lock = self._reconciling.setdefault(key, threading.Lock())
        with lock:
            store = self._cloud.store
            with store.lock:
                service = store["run_services"].get(key)
                if service is None:
                    return
                generation = service["metadata"]["generation"]
                place, latest = key.rpartition("/")[0], service["status"]["latestCreatedRevisionName"]
                revision = store["run_revisions"][f"{place}/{latest}"]
                fresh = _ready(revision)["status"] == "Unknown"
            if fresh:
                self._start_first(f"{place}/{latest}", revision)
            with store.lock:
                if service["metadata"]["generation"] == generation:
                    self._conclude(key, service, revision)
                store["operations"][operation].update(
                    done=True,
                    response={"@type": "type.googleapis.com/google.cloud.run.v1.Service", **service},
                )
                store.save()

    def _start_first(self, key: str, revision: Json) -> None:
        """Start the first instance of a new revision: it is ready when that one is."""
        reason, message = "", ""
        try:
            self.launcher.find(self.workload(revision).image)
            self.launcher.check(self.workload(revision), key.split("/")[0])
            self.pool(key).start()
        except StartError as error:
            reason, message = error.reason, str(error)
        except GoogleError as error:
            reason, message = "ContainerStartError", error.message
        except Exception as error:
            log.exception("an error of the emulator's own at the start of %s", key)
            reason, message = "InternalError", f"an error of the emulator's own: {error!r}"
        with self._cloud.store.lock:
            if reason:
                set_conditions(revision, {"Ready": "False", "ContainerHealthy": "False"}, reason, message)
            else:
                set_conditions(revision, {"Ready": "True", "ContainerHealthy": "True"})
            revision["status"]["observedGeneration"] = 1

    def _conclude(self, key: str, service: Json, revision: Json) -> None:
        """Write a service's status from its newest revision and its traffic."""
        place, status = key.rpartition("/")[0], service["status"]
        ready = _ready(revision)
        conditions, reason, message = {"ConfigurationsReady": ready["status"]}, "", ""
        if ready["status"] == "True":
            status["latestReadyRevisionName"] = revision["metadata"]["name"]
        else:
            name = revision["metadata"]["name"]
            reason = ready["reason"]
            message = f"Revision '{name}' is not ready and cannot serve traffic. {ready['message']}"
        traffic, missing = self._traffic(place, service)
        conditions["RoutesReady"] = "True"
        if missing:
            conditions["RoutesReady"] = "False"
            reason, message = reason or "RevisionMissing", message or missing
        else:
            status["traffic"] = traffic
        conditions["Ready"] = "True" if set(conditions.values()) == {"True"} else "False"
        status["observedGeneration"] = service["metadata"]["generation"]
        set_conditions(service, conditions, reason, message)
        for target in status.get("traffic", []):
            if target.get("percent"):
                self._cloud.background(self._warm, f"{place}/{target['revisionName']}")

    def _warm(self, key: str) -> None:
        """Have the minimum of instances."""
        pool = self.pool(key)
        try:
            for _ in range(self._minimum(key) - len(pool.instances)):
                pool.start()
        except StartError:
            return  # its log says why; a request will try again

    def _traffic(self, place: str, service: Json) -> tuple[list[Json], str]:
        """Return the traffic as it is to be, and what is missing for it."""
        metadata, status = service["metadata"], service["status"]
        targets = service["spec"].get("traffic") or [{"latestRevision": True, "percent": 100}]
        traffic = []
        number, region = self._cloud.number(metadata["namespace"]), place.split("/")[1]
        for target in targets:
            latest = status.get("latestReadyRevisionName", "")
            name = latest if target.get("latestRevision") else target.get("revisionName", "")
            revision = self._cloud.store["run_revisions"].get(f"{place}/{name}")
            if revision is None or _ready(revision)["status"] != "True":
                return [], f"Revision '{name or status['latestCreatedRevisionName']}' is not ready."
            entry = {**target, "revisionName": name}
            if target.get("tag"):
                entry["url"] = f"https://{hosts(metadata['name'], number, region, target['tag'])[1]}"
            traffic.append(entry)
        return traffic, ""


def _ready(revision: Json) -> Json:
    return next(dict(c) for c in revision["status"]["conditions"] if c["type"] == "Ready")


def set_conditions(resource: Json, statuses: dict[str, str], reason: str = "", message: str = "") -> None:
    """Set a resource's conditions; reason and message go to those that are not True."""
    why = {name: value for name, value in (("reason", reason), ("message", message)) if value}
    resource["status"]["conditions"] = [
        {"type": kind, "status": status, "lastTransitionTime": now(), **(why if status != "True" else {})}
        for kind, status in sorted(statuses.items(), key=lambda item: item[0] != "Ready")
    ]
