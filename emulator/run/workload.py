"""What a revision's or a task's specification asks for, read and checked."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from emulator.errors import GoogleError, NotModelledError
from emulator.web import Json

UNITS = {"": 1, "k": 1000, "M": 1000**2, "G": 1000**3, "Ki": 1024, "Mi": 1024**2, "Gi": 1024**3}
# Annotations of templates; the discovery document lets any key pass, so that a mistyped one would.
TEMPLATE_ANNOTATIONS = {
    "autoscaling.knative.dev/maxScale",
    "autoscaling.knative.dev/minScale",
    "client.knative.dev/user-image",
    "run.googleapis.com/client-name",
    "run.googleapis.com/client-version",
    "run.googleapis.com/cloudsql-instances",
    "run.googleapis.com/cpu-throttling",
    "run.googleapis.com/execution-environment",
    "run.googleapis.com/sessionAffinity",
    "run.googleapis.com/startup-cpu-boost",
    "serving.knative.dev/creator",
}
RESERVED = {"PORT", "K_SERVICE", "K_REVISION", "K_CONFIGURATION"}
# One TCP check that lasts four minutes: https://cloud.google.com/run/docs/configuring/healthchecks
DEFAULT_PROBE: Json = {"timeoutSeconds": 240, "periodSeconds": 240, "failureThreshold": 1}


@dataclass(frozen=True)
class SecretRef:
    """A version of a secret, and where a specification names it."""

    secret: str
    version: str
    where: str


@dataclass(frozen=True)
class Workload:
    """One container, as Cloud Run is to run it."""

    image: str
    account: str
    command: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    secret_environment: dict[str, SecretRef] = field(default_factory=dict)
    secret_files: dict[str, dict[str, SecretRef]] = field(default_factory=dict)  # by folder, then by path
    databases: list[str] = field(default_factory=list)  # connection names
    memory: int = 512 * 1024**2
    cpu: float = 1.0
    throttled: bool = True
    boost: bool = False
    port: int = 8080
    concurrency: int = 80
    timeout: int = 300
    minimum: int = 0
    maximum: int = 100
    probe: Json = field(default_factory=dict)


def quantity(text: str) -> float:
    """Read a Kubernetes quantity such as 512Mi, 1000m or 2.

    Raises:
        GoogleError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(m|k|M|G|Ki|Mi|Gi)?", str(text))
    if not found:
        raise GoogleError(400, f"'{text}' is not a valid quantity.")
    return float(found[1]) / 1000 if found[2] == "m" else float(found[1]) * UNITS[found[2] or ""]


def true(value: str) -> bool:
    """Read an annotation's boolean, which gcloud writes as "True" or "true"."""
    return str(value).lower() == "true"


def check_annotations(given: Json, known: set[str]) -> None:
    """Refuse annotations of Google's that the emulator does not know.

    Raises:
        NotModelledError: there is one.
    """
    for name in given:
        ours = name.partition("/")[0].endswith(("googleapis.com", "knative.dev"))
        if ours and name not in known:
            raise NotModelledError(f"the annotation {name}")


def read(annotations: Json, spec: Json, default_account: str) -> Workload:
    """Read a specification.

    Args:
        annotations: the template's.
        spec: the template's, of a revision or of a task.
        default_account: the service account where none is named.

    Raises:
        GoogleError: it is wrong, or asks for what is not modelled.
    """
    check_annotations(annotations, TEMPLATE_ANNOTATIONS)
    if len(spec.get("containers", [])) != 1:
        raise NotModelledError("several containers in one instance")
    container = spec["containers"][0]
    limits = container.get("resources", {}).get("limits", {})
    environment, secret_environment = _environment(container)
    ports = container.get("ports") or [{}]
    probe = container.get("startupProbe") or DEFAULT_PROBE
    if "livenessProbe" in container or "grpc" in probe:
        raise NotModelledError("liveness probes and gRPC probes")
    workload = Workload(
        image=container.get("image", ""),
        account=spec.get("serviceAccountName") or default_account,
        command=container.get("command", []),
        arguments=container.get("args", []),
        environment=environment,
        secret_environment=secret_environment,
        secret_files=_files(container, spec),
        databases=[n for n in annotations.get("run.googleapis.com/cloudsql-instances", "").split(",") if n],
        memory=int(quantity(limits.get("memory", "512Mi"))),
        cpu=quantity(limits.get("cpu", "1000m")),
        throttled=true(annotations.get("run.googleapis.com/cpu-throttling", "true")),
        boost=true(annotations.get("run.googleapis.com/startup-cpu-boost", "false")),
        port=int(ports[0].get("containerPort", 8080)),
        concurrency=int(spec.get("containerConcurrency") or 80),
        timeout=int(spec.get("timeoutSeconds") or 300),
        minimum=int(annotations.get("autoscaling.knative.dev/minScale", 0)),
        maximum=int(annotations.get("autoscaling.knative.dev/maxScale", 100)),
        probe=probe,
    )
    _check(workload)
    return workload


def _check(workload: Workload) -> None:
    """Google's own limits: https://cloud.google.com/run/docs/configuring/services/cpu."""
    if not workload.image:
        raise GoogleError(400, "spec.template.spec.containers[0].image: the image is required.")
    if workload.cpu > 1 and workload.memory < 512 * 1024**2:
        raise GoogleError(400, "Invalid value specified for memory: more than one CPU needs at least 512Mi.")
    if workload.memory < 128 * 1024**2:
        raise GoogleError(400, "Invalid value specified for memory: it must be at least 128Mi.")
    if workload.cpu < 1 and workload.concurrency > 1:
        raise GoogleError(400, "Total cpu < 1 is not supported with concurrency > 1.")
    if not 1 <= workload.concurrency <= 1000:
        raise GoogleError(400, "containerConcurrency must be from 1 to 1000.")
    if not 1 <= workload.timeout <= 3600 and workload.probe:
        raise GoogleError(400, "timeoutSeconds must be from 1 to 3600.")


def _environment(container: Json) -> tuple[dict[str, str], dict[str, SecretRef]]:
    plain: dict[str, str] = {}
    secret: dict[str, SecretRef] = {}
    for index, variable in enumerate(container.get("env", [])):
        name = variable["name"]
        where = f"spec.template.spec.containers[0].env[{index}]"
        if name in RESERVED:
            raise GoogleError(400, f"{where}.name: The following reserved env names were provided: {name}.")
        if name in plain or name in secret:
            raise GoogleError(400, f"{where}.name: {name} is given twice.")
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        if reference:
            where += ".value_from.secret_key_ref.name"
            secret[name] = SecretRef(reference["name"], reference["key"], where)
        else:
            plain[name] = variable.get("value", "")
    return plain, secret


def _files(container: Json, spec: Json) -> dict[str, dict[str, SecretRef]]:
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    folders: dict[str, dict[str, SecretRef]] = {}
    for mount in container.get("volumeMounts", []):
        volume = volumes.get(mount["name"])
        if volume is None or "secret" not in volume:
            raise NotModelledError(f"volumes other than of secrets: {mount['name']}")
        source = volume["secret"]
        where = f"spec.template.spec.volumes[{list(volumes).index(mount['name'])}].secret.secret_name"
        folders[mount["mountPath"]] = {
            item["path"]: SecretRef(source["secretName"], item["key"], where) for item in source["items"]
        }
    return folders
