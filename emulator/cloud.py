"""The emulated cloud: its store, its access control, its projects, and what its APIs share."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emulator.docker_socket import DockerSocket
from emulator.engine import Engine
from emulator.errors import GoogleError, not_found
from emulator.faults import Faults
from emulator.iam import ANONYMOUS, Access, everybody
from emulator.identity import Identity
from emulator.logs import Logs
from emulator.registry import Server
from emulator.store import Store, now
from emulator.web import Json, Request

if TYPE_CHECKING:
    from emulator.run.runtime import Runtime

log = logging.getLogger("emulator")
# What a new project has, less what the emulator does not model.
ENABLED_AT_FIRST = ("logging.googleapis.com", "serviceusage.googleapis.com", "storage.googleapis.com")


class Cloud:
    """Everything that the handlers of the APIs work on."""

    def __init__(self, folder: Path) -> None:
        """Bring up the state of a folder."""
        self.folder = folder
        self.store = Store(folder / "state.json")
        self.access = Access(self.store)
        self.identity = Identity(self.store)
        self.faults = Faults()
        self.logs = Logs(folder / "logs.jsonl")
        self.engine = Engine(folder)
        self.registry = Server(self)
        self.docker = DockerSocket(self)
        self.calls: list[Json] = []
        self.authority_file = folder / "ca.pem"
        self.port = 0
        self.listen: Callable[[str], None] = lambda address: None  # the emulator's own, once it is up
        self.run: Runtime  # set by the emulator

    def add_project(self, project: str, number: str, owner: str) -> None:
        """Have a project with an owner; nothing happens when it is there."""
        with self.store.lock:
            if project in self.store["projects"]:
                return
            self.store["projects"][project] = {
                "projectId": project,
                "projectNumber": number,
                "name": project,
                "lifecycleState": "ACTIVE",
                "createTime": now(),
            }
            for service in ENABLED_AT_FIRST:
                self.store["services"][f"{project}/{service}"] = True
            self.access.grant(f"projects/{project}", "roles/owner", f"user:{owner}")
            self.store.save()

    def project(self, name: str) -> Json:
        """Return a project by its id or number.

        Raises:
            GoogleError: there is none.
        """
        for project in self.store["projects"].values():
            if name in (project["projectId"], project["projectNumber"]):
                return dict(project)
        raise GoogleError(403, f"Permission denied on resource project {name} (or it may not exist).")

    def number(self, project: str) -> str:
        """Return a project's number."""
        return str(self.project(project)["projectNumber"])

    def project_of(self, parameters: dict[str, str], query: dict[str, str]) -> str:
        """Return the id of the project that a call's parameters speak of; "" when they speak of none."""
        for name in ("project", "projectId", "projectsId"):
            if name in parameters or name in query:
                return str(self.project(parameters.get(name) or query[name])["projectId"])
        if "bucket" in parameters:
            return str(self.store["buckets"].get(parameters["bucket"], {}).get("project", ""))
        for value in parameters.values():
            kind, _, rest = value.partition("/")
            if kind in ("projects", "namespaces"):
                return self.canonical(f"projects/{rest}").split("/")[1]
            if not rest:
                return str(self.project(value)["projectId"])
        return ""

    def canonical(self, name: str) -> str:
        """Return a resource's name with its project's id, where it may have a number or `-`."""
        kind, _, rest = name.partition("/")
        if kind != "projects":
            return name
        project, _, rest = rest.partition("/")
        if project == "-":
            account = self.store["service_accounts"].get(rest.split("/")[1])
            if account is None:
                raise not_found(f"Unknown service account: {rest}")
            project = account["projectId"]
        return f"projects/{self.project(project)['projectId']}" + (f"/{rest}" if rest else "")

    def allows(self, principal: str, permission: str, resource: str) -> bool:
        """Say whether a principal has a permission on a resource."""
        return self.access.allows(everybody(principal), permission, resource)

    def require(self, principal: str, permission: str, resource: str) -> None:
        """Refuse unless a principal has a permission on a resource.

        Raises:
            GoogleError: 401 for nobody, else 403.
        """
        if self.allows(principal, permission, resource):
            return
        if principal == ANONYMOUS:
            raise GoogleError(401, "Request is missing required authentication credential.")
        email = principal.partition(":")[2].partition(" ")[0]
        message = f"Permission '{permission}' denied for {email} on '{resource}' (or it may not exist)."
        raise GoogleError(403, message)

    def enabled(self, service: str, project: str) -> bool:
        """Say whether an API is enabled in a project."""
        return f"{project}/{service}" in self.store["services"]

    def require_enabled(self, service: str, project: str) -> None:
        """Refuse unless an API is enabled in a project.

        Raises:
            GoogleError: 403 as https://cloud.google.com/apis/docs/troubleshooting has it.
        """
        if not project or self.enabled(service, project):
            return
        number = self.number(project)
        link = f"https://console.developers.google.com/apis/api/{service}/overview?project={project}"
        raise GoogleError(
            403,
            f"{service} has not been used in project {number} before or it is disabled. Enable it by "
            f"visiting {link} then retry.",
            details=[
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "SERVICE_DISABLED",
                    "domain": "googleapis.com",
                    "metadata": {"service": service, "consumer": f"projects/{number}"},
                }
            ],
        )

    def log_call(self, method: str, principal: str, request: Request, status: int, message: str) -> None:
        """Keep a call in the list of calls, and write it to the log; no body, no query: secrets are there."""
        entry = {"method": method, "principal": principal, "status": status, "message": message}
        self.calls.append({**entry, "verb": request.method, "path": f"{request.host}{request.path}"})
        log.info("%s %s %s%s %s", status, method, request.host, request.path, message)

    def background(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Do something after the call has been answered."""
        threading.Thread(target=function, args=arguments, daemon=True, name=function.__name__).start()
