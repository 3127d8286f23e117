"""Cloud Run jobs, through the real gcloud."""

from __future__ import annotations

from typing import Any

import pytest

from emulator import Emulator
from tests.emulator.conftest import PROJECT, REGION, Gcloud

pytestmark = pytest.mark.docker
WHERE = f"--region={REGION}"


def test_a_job_runs_to_its_end(gcloud: Gcloud, emulator: Emulator, image: str) -> None:
    email = f"migrator@{PROJECT}.iam.gserviceaccount.com"
    gcloud("iam", "service-accounts", "create", "migrator")
    command = ("--command=python3", "--args=-c,import os; print('migrated ' + os.environ['WHAT'])")
    options = (WHERE, f"--image={image}", f"--service-account={email}", "--max-retries=0", *command)
    gcloud("run", "jobs", "deploy", "migrate", *options, "--set-env-vars=WHAT=schema")
    gcloud("run", "jobs", "execute", "migrate", WHERE, "--wait")
    store: Any = emulator.cloud.store
    job = store["run_jobs"][f"{PROJECT}/{REGION}/migrate"]
    execution = store["run_executions"][
        f"{PROJECT}/{REGION}/{job['status']['latestCreatedExecution']['name']}"
    ]
    assert execution["status"]["succeededCount"] == 1
    query = 'resource.type="cloud_run_job" AND resource.labels.job_name="migrate"'
    assert gcloud("logging", "read", query, "--format=value(textPayload)") == "migrated schema"


def test_a_job_that_fails_says_so(gcloud: Gcloud, image: str) -> None:
    command = ("--command=python3", "--args=-c,raise SystemExit('a newer schema')")
    options = (WHERE, f"--image={image}", "--max-retries=0", *command)
    error = gcloud.refused("run", "jobs", "deploy", "failing", *options, "--execute-now", "--wait")
    assert "exit code 1" in error or "failed" in error
    query = 'resource.type="cloud_run_job" AND resource.labels.job_name="failing"'
    assert gcloud("logging", "read", query, "--format=value(textPayload)") == "a newer schema"
