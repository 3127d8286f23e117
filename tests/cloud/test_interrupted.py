"""Killed after some API call and run again: the same as if it had run through."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cloud.conftest import SWEEP, USER, Cloud

pytestmark = pytest.mark.docker
PROVISION = range(1, 60) if SWEEP else [3, 14, 27]
DEPLOY = range(1, 60) if SWEEP else [5, 18, 33]


@pytest.mark.parametrize("at", PROVISION)
def test_provision(at: int, tmp_path: Path) -> None:
    cloud = Cloud(tmp_path)
    with cloud.emulator:
        try:
            reached = cloud.interrupted(at, "provision")
            assert reached or SWEEP, "it ended before: the spread is to be narrowed"
            cloud.invoke("provision")
            store = cloud.store
            own = [name for name in store["service_accounts"] if name.startswith("mlflow-run@")]
            assert len(own) == len(store["repositories"]) == 1
            assert set(store["buckets"]) == {"my-project-mlflow", "my-project-mlflow-build"}
            assert len(store["sql_instances"]) == 1
            assert cloud.versions("mlflow-backend-store-uri") == 1
            user, password = cloud.login()
            assert cloud.signs_in(user, password)
            assert not cloud.signs_in(user, "another")
        finally:
            cloud.emulator.wipe()


@pytest.mark.parametrize("at", DEPLOY)
def test_deploy(at: int, deployed: Cloud) -> None:
    with deployed.changed():
        (memory,) = re.findall("memory: (.*)", (deployed.project / "invoke.yaml").read_text())
        reached = deployed.interrupted(at, "deploy")
        assert reached or SWEEP, "it ended before: the spread is to be narrowed"
        assert deployed.get("/api/2.0/mlflow/experiments/search?max_results=1", user=USER).status_code == 200
        deployed.invoke("deploy")
    assert len(deployed.store["run_services"]) == len(deployed.store["run_jobs"]) == 1
    (revision,) = [
        found
        for key, found in deployed.store["run_revisions"].items()
        if key.endswith(f"/{deployed.serving()}")
    ]
    assert revision["spec"]["containers"][0]["resources"]["limits"]["memory"] == memory
