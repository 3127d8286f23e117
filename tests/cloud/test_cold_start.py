"""Why start.sh opens the port only when MLflow answers: the first answer after scaling to zero."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from tests.cloud.conftest import CANDIDATE, SERVICE, SWEEP, USER, Cloud

pytestmark = pytest.mark.docker
STARTS = 20 if SWEEP else 5
IDLE = 5.0  # seconds, longer than MLflow's start takes with the CPU
# Cloud Run's own, which notices the open port at once. The project's looks once a second: until then
# MLflow has the CPU, and may get ready by luck.
PROBE = "tcpSocket.port=4180,timeoutSeconds=240,periodSeconds=240,failureThreshold=1"


def first_answers(cloud: Cloud, host: str) -> Counter[int]:
    """Start cold so many times, and count what the first request of each is answered."""
    answers: Counter[int] = Counter()
    for _ in range(STARTS):
        cloud.emulator.cloud.run.scale_down(0)
        answers[cloud.get("/version", host, user=USER).status_code] += 1
    print(f"{host}: {dict(answers)}")
    return answers


def test_with_the_wait_the_first_request_is_answered(deployed: Cloud) -> None:
    assert first_answers(deployed, SERVICE) == {200: STARTS}


def test_without_the_wait_it_meets_bad_gateway(deployed: Cloud) -> None:
    with deployed.edited("start.sh", " && wait_for_mlflow;", ";"):
        image = deployed.build()
    where = ("--region=europe-west1", "--no-traffic", "--tag=candidate", f"--startup-probe={PROBE}")
    deployed.gcloud("run", "deploy", "mlflow", f"--image={image}", *where)
    assert first_answers(deployed, CANDIDATE) == {502: STARTS}
    # and it does not come up by itself: without a request there is no CPU
    threading.Event().wait(IDLE)
    assert deployed.get("/version", CANDIDATE, user=USER).status_code == 502
