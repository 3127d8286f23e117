"""REGION-run.googleapis.com: jobs, their executions and tasks."""

from __future__ import annotations

import copy
import re
import secrets
import uuid

from emulator.api import Call, handles
from emulator.apis.run import NAME
from emulator.apis.run_revisions import LABEL, name_of, place, region
from emulator.cloud import Cloud
from emulator.engine import discard
from emulator.errors import GoogleError, NotModelledError, exists, not_found
from emulator.registry import require_reader
from emulator.run.container import StartError
from emulator.run.runtime import set_conditions
from emulator.run.workload import Workload, read
from emulator.store import now
from emulator.web import Json

API = "run.googleapis.com/v1"


def _on(call: Call) -> str:
    return f"projects/{call.project}/locations/{region(call)}/jobs/{name_of(call)}"


def _project(call: Call) -> str:
    return f"projects/{call.project}"


def _found(call: Call, collection: str) -> Json:
    found: Json | None = call.cloud.store[collection].get(f"{place(call)}/{name_of(call)}")
    if found is None:
        raise not_found(
            f"Resource '{name_of(call)}' of kind '{collection.removeprefix('run_')[:-1].upper()}'"
        )
    return found


def _workload(cloud: Cloud, job: Json) -> Workload:
    """Read what a job's task asks for."""
    execution = job["spec"]["template"]
    task = execution["spec"]["template"]["spec"]
    if execution["spec"].get("taskCount", 1) != 1:
        raise NotModelledError("several tasks in one execution")
    default = cloud.run.default_account(job["metadata"]["namespace"])
    spec = {name: value for name, value in task.items() if name != "timeoutSeconds"}
    return read(execution.get("metadata", {}).get("annotations", {}), spec, default)


def _take(call: Call, job: Json) -> Json:
    """Check a job's specification and take it over."""
    workload = _workload(call.cloud, job)
    call.require("iam.serviceAccounts.actAs", f"projects/{call.project}/serviceAccounts/{workload.account}")
    require_reader(call.cloud, call.principal, workload.image)
    metadata = job["metadata"]
    metadata["resourceVersion"] = f"AAX{secrets.token_hex(6)}"
    job["status"]["observedGeneration"] = metadata["generation"]
    set_conditions(job, {"Ready": "True"})
    call.cloud.store["run_jobs"][f"{place(call)}/{metadata['name']}"] = job
    return copy.deepcopy(job)


@handles("run.namespaces.jobs.create", "run.jobs.create", _project)
def create(call: Call) -> Json:
    """Create a job; it runs when it is told to."""
    job = copy.deepcopy(call.body)
    metadata = job["metadata"]
    if not NAME.fullmatch(metadata.get("name", "")):
        raise GoogleError(400, "metadata.name: the name must be lower-case letters, digits and hyphens.")
    if f"{place(call)}/{metadata['name']}" in call.cloud.store["run_jobs"]:
        raise exists(f"Resource '{metadata['name']}'")
    metadata |= {
        "namespace": call.project,
        "uid": str(uuid.uuid4()),
        "generation": 1,
        "creationTimestamp": now(),
        "labels": {**metadata.get("labels", {}), LABEL: region(call)},
    }
    metadata.setdefault("annotations", {})["run.googleapis.com/creator"] = call.email
    job["status"] = {"executionCount": 0}
    return _take(call, job)


@handles("run.namespaces.jobs.replaceJob", "run.jobs.update", _on)
def replace(call: Call) -> Json:
    """Change a job; executions that run already are not changed."""
    old, job = _found(call, "run_jobs"), copy.deepcopy(call.body)
    kept = {name: old["metadata"][name] for name in ("namespace", "uid", "creationTimestamp")}
    labels = {**job["metadata"].get("labels", {}), LABEL: region(call)}
    job["metadata"] |= {**kept, "generation": old["metadata"]["generation"] + 1, "labels": labels}
    job["status"] = copy.deepcopy(old["status"])
    return _take(call, job)


@handles("run.namespaces.jobs.get", "run.jobs.get", _on)
def get(call: Call) -> Json:
    """Describe a job."""
    return copy.deepcopy(_found(call, "run_jobs"))


@handles("run.namespaces.jobs.list", "run.jobs.list", _project)
def list_jobs(call: Call) -> Json:
    """List a region's jobs."""
    items = [j for key, j in call.cloud.store["run_jobs"].items() if key.startswith(f"{place(call)}/")]
    return {"apiVersion": API, "kind": "JobList", "metadata": {}, "items": copy.deepcopy(items)}


@handles("run.namespaces.jobs.delete", "run.jobs.delete", _on)
def delete(call: Call) -> Json:
    """Delete a job with its executions."""
    name = _found(call, "run_jobs")["metadata"]["name"]
    del call.cloud.store["run_jobs"][f"{place(call)}/{name}"]
    executions = call.cloud.store["run_executions"]
    for key in [k for k in executions if re.fullmatch(f"{place(call)}/{name}-[a-z0-9]{{5}}", k)]:
        del executions[key]
    return {"status": "Success"}


@handles("run.namespaces.jobs.run", "run.jobs.run", _on)
def run(call: Call) -> Json:
    """Execute a job, after the answer."""
    if call.body.get("overrides"):
        raise NotModelledError("overrides of one execution")
    job = _found(call, "run_jobs")
    name = f"{job['metadata']['name']}-{secrets.token_hex(3)[:5]}"
    labels = {"run.googleapis.com/job": job["metadata"]["name"], LABEL: region(call)}
    execution: Json = {
        "apiVersion": API,
        "kind": "Execution",
        "metadata": {
            "name": name,
            "namespace": call.project,
            "uid": str(uuid.uuid4()),
            "generation": 1,
            "creationTimestamp": now(),
            "labels": labels,
            "annotations": {"run.googleapis.com/creator": call.email},
        },
        "spec": copy.deepcopy(job["spec"]["template"]["spec"]),
        "status": {
            "observedGeneration": 1,
            "startTime": now(),
            "runningCount": 1,
            "logUri": "https://x.invalid",
        },
    }
    set_conditions(execution, {"Completed": "Unknown", "ResourcesAvailable": "Unknown", "Started": "Unknown"})
    call.cloud.store["run_executions"][f"{place(call)}/{name}"] = execution
    job["status"]["executionCount"] += 1
    reference = {"name": name, "creationTimestamp": execution["metadata"]["creationTimestamp"]}
    job["status"]["latestCreatedExecution"] = reference
    call.cloud.background(
        _execute, call.cloud, place(call), job["metadata"]["name"], execution, _workload(call.cloud, job)
    )
    return copy.deepcopy(execution)


def _execute(cloud: Cloud, where: str, job: str, execution: Json, workload: Workload) -> None:
    """Run the container, again as often as the job allows, and write down how it ended."""
    project, location = where.split("/")
    name = execution["metadata"]["name"]
    labels = {"project_id": project, "location": location, "job_name": job}
    log: Json = {
        "resource": {"type": "cloud_run_job", "labels": labels},
        "labels": {"run.googleapis.com/execution_name": name, "run.googleapis.com/task_index": "0"},
    }
    spec = execution["spec"]["template"]["spec"]
    retries = int(spec.get("maxRetries", 3))
    reason, message = "NonZeroExitCode", ""
    for attempt in range(retries + 1):
        extra = {"CLOUD_RUN_JOB": job, "CLOUD_RUN_EXECUTION": name, "CLOUD_RUN_TASK_INDEX": "0"}
        extra |= {"CLOUD_RUN_TASK_ATTEMPT": str(attempt), "CLOUD_RUN_TASK_COUNT": "1"}
        try:
            container = cloud.run.launcher.launch(
                workload, project, cloud.engine.name("job", name), extra, log
            )
        except StartError as error:
            reason, message = error.reason, str(error)
            break
        code = int(container.wait()["StatusCode"])
        cloud.run.launcher.drain(container)
        discard(container)
        if code == 0:
            reason, message = "", ""
            break
        message = (
            f"Task {name}-task0 failed with message: The container exited with an error (exit code {code})."
        )
    with cloud.store.lock:
        status = execution["status"]
        status.pop("runningCount")
        status["completionTime"] = now()
        status["failedCount" if reason else "succeededCount"] = 1
        done = {"ResourcesAvailable": "True", "Started": "True"}
        set_conditions(execution, {**done, "Completed": "False" if reason else "True"}, reason, message)
        cloud.store.save()


@handles("run.namespaces.executions.get", "run.executions.get", _project)
def get_execution(call: Call) -> Json:
    """Describe an execution."""
    return copy.deepcopy(_found(call, "run_executions"))


@handles("run.namespaces.executions.list", "run.executions.list", _project)
def list_executions(call: Call) -> Json:
    """List the executions, newest first, of the job that the label selector names."""
    job = call.query.get("labelSelector", "").partition("=")[2].strip()
    items = [
        execution
        for key, execution in call.cloud.store["run_executions"].items()
        if key.startswith(f"{place(call)}/")
        and job in ("", execution["metadata"]["labels"]["run.googleapis.com/job"])
    ]
    return {"apiVersion": API, "kind": "ExecutionList", "metadata": {}, "items": copy.deepcopy(items[::-1])}
