"""What is measured of a subject; each function returns numbers, of one run or of many requests."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import browser
from benchmarks.stage import CLIENT_CPU, SEARCH, Stage, Subject, quiet, used
from benchmarks.statements import heard

KINDS = {"experiments/search": 800, "log-metric": 800, "log-batch": 120}
CONNECTIONS = 8
Numbers = dict[str, float]


def start(stage: Stage, subject: Subject, *, memory: str = "") -> Numbers:
    """Start once, until the API's first answer, through the proxy with a token; then until it is idle."""
    begin = time.monotonic()
    with stage.running(subject, memory=memory) as container:
        stage.answer(container)
        seconds = time.monotonic() - begin
        cpu, _ = used(container)
        quiet(container)
        after, idle = used(container)
    return {"seconds": seconds, "cpu_seconds": cpu, "cpu_seconds_until_idle": after, "idle_mib": idle}


def where(stage: Stage, subject: Subject) -> Numbers:
    """Return the CPU seconds of each step of a start of the server."""
    with stage.running(subject, script=Path(__file__).parent / "where.py") as container:
        container.wait()
        *_, last = container.logs(stderr=False).decode().splitlines()
    return dict(json.loads(last))


def first_click(stage: Stage, subject: Subject) -> Numbers:
    """Open the experiments' page while the container starts, as Cloud Run lets a browser wait.

    Then once more, with an empty cache, now that it runs: what is the page's and not the start's.
    """
    session = browser.session(stage)
    with browser.opened(stage.layout.url, session) as page:
        begin = time.monotonic()
        with stage.running(subject):
            page.visit()
            cold = time.monotonic() - begin
            with page.another() as again:
                begin = time.monotonic()
                again.visit()
                warm = time.monotonic() - begin
    return {"seconds": cold, "seconds_when_running": warm, "bytes": float(page.received)}


def load(stage: Stage, subject: Subject, scale: float) -> dict[str, dict[str, Numbers]]:
    """Return, for each kind of request, the throughput through the proxy and past it, and CPU a request."""
    found: dict[str, dict[str, Numbers]] = {}
    with stage.running(subject) as container:
        stage.answer(container)
        for kind, requests in KINDS.items():
            for way, port in (("proxied", stage.layout.port), ("direct", 5000)):
                before, _ = used(container)
                told = _load(stage, port, kind, int(requests * scale), direct=way == "direct")
                seconds = told["seconds"]
                found.setdefault(kind, {})[way] = {
                    "requests_per_second": told["requests_per_second"],
                    # The first tenth, which is not counted, costs as much.
                    "cpu_ms_a_request": (used(container)[0] - before) * 1000 / (len(seconds) * 1.1),
                    "median_ms": statistics.median(seconds) * 1000,
                    "p99_ms": seconds[int(len(seconds) * 0.99)] * 1000,
                }
    return found


def two_processes(stage: Stage, subject: Subject) -> Numbers:
    """Return the MiB that a container of two server processes holds after some requests."""
    two = replace(subject, environment={**subject.environment, "MLFLOW_WORKERS": "2"})
    with stage.running(two, memory="768m") as container:
        stage.answer(container)
        for kind, requests in KINDS.items():
            _load(stage, stage.layout.port, kind, requests // 2, direct=False)
        quiet(container)
        return {"mib": used(container)[1]}


def _load(stage: Stage, port: int, kind: str, requests: int, *, direct: bool) -> dict[str, Any]:
    """Run load.py in the network namespace of the service."""
    output = stage.engine.containers.run(
        stage.layout.name("image"),
        ["/load.py", str(port), kind, str(requests), str(CONNECTIONS)],
        entrypoint=["python3"],
        environment={
            "TOKEN": "" if direct else stage.token,
            "HOST": f"localhost:{stage.layout.port}",
        },
        network_mode=f"container:{stage.layout.name('sign-in')}",
        volumes={str(Path(__file__).parent / "load.py"): {"bind": "/load.py", "mode": "ro"}},
        cpuset_cpus=CLIENT_CPU,
        remove=True,
    )
    return dict(json.loads(output))


# One metric at a time on a connection that stays open, as a training does it.
CLIENT = """
import json, sys, time
from mlflow.tracking import MlflowClient
client = MlflowClient()
run = client.create_run(client.create_experiment(f"client-{time.time_ns()}")).info.run_id
seconds = []
for step in range(int(sys.argv[1])):
    begin = time.perf_counter()
    client.log_metric(run, "m", float(step), step=step)
    seconds.append(time.perf_counter() - begin)
print(json.dumps(sorted(seconds[len(seconds) // 10:])))
"""


def log_metric(stage: Stage, subject: Subject, count: int) -> Numbers:
    """Return the latency of MLflow's own client, in ms."""
    with stage.running(subject) as container:
        stage.answer(container)
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, str(count)],
            env={
                "PATH": "/usr/bin:/bin",
                "MLFLOW_TRACKING_URI": stage.layout.url,
                "MLFLOW_TRACKING_TOKEN": stage.token,
                "MLFLOW_DISABLE_TELEMETRY": "true",
            },
            check=True,
            capture_output=True,
            text=True,
        )
    seconds = json.loads(done.stdout)
    return {
        "median_ms": statistics.median(seconds) * 1000,
        "p99_ms": seconds[int(len(seconds) * 0.99)] * 1000,
    }


def statements(stage: Stage, subject: Subject) -> Numbers:
    """Return how many statements a start takes, its first answer included, and a request of each kind.

    Of each kind the second request counts: the first may load what is lazy.
    """
    database = stage.engine.containers.get(stage.layout.name("database"))
    found: Numbers = {}
    with heard(database) as at_start, stage.running(subject) as container:
        stage.answer(container)
    found["a start, on a database that is there"] = len(at_start)
    with stage.running(subject) as container:
        stage.answer(container)
        experiment = stage.ask("POST", "experiments/create", {"name": f"statements-{time.time_ns()}"})
        made = stage.ask("POST", "runs/create", experiment)
        run = made["run"]["info"]["run_id"]
        for step in range(2):
            point = {"value": float(step), "timestamp": step, "step": step}
            batch = [{"key": f"m{number}", **point} for number in range(100)]
            requests: dict[str, tuple[str, str, Any]] = {
                "experiments/search": ("GET", SEARCH, None),
                "runs/create": ("POST", "runs/create", experiment),
                "log-metric": ("POST", "runs/log-metric", {"run_id": run, "key": "m", **point}),
                "log-batch of 100 metrics": ("POST", "runs/log-batch", {"run_id": run, "metrics": batch}),
                "log-parameter": (
                    "POST",
                    "runs/log-parameter",
                    {"run_id": run, "key": f"p{step}", "value": "1"},
                ),
                "runs/get": ("GET", f"runs/get?run_id={run}", None),
                "runs/search": ("POST", "runs/search", {"experiment_ids": [experiment["experiment_id"]]}),
            }
            for name, request in requests.items():
                with heard(database) as sent:
                    stage.ask(*request)
                found[name] = len(sent)
        stage.ask("POST", "experiments/delete", experiment)
    return found


def local_up(stage: Stage) -> Numbers:
    """Return the seconds of `invoke local-up` with the images there, the command's own start included."""
    stage.stack.down()
    begin = time.monotonic()
    command = [sys.executable, "-m", "invoke", "local-up", "--detach", "--port", str(stage.layout.port)]
    subprocess.run(command, cwd=stage.project, check=True, capture_output=True)
    return {"seconds": time.monotonic() - begin}


def size(stage: Stage, subject: Subject) -> float:
    """Return an image's size in MB, as Docker says it."""
    return float(stage.engine.images.get(subject.image).attrs["Size"]) / 1e6
