"""`invoke provision`, killed after some API call and run again: the same as if it had run through."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cloud.conftest import Cloud

pytestmark = pytest.mark.docker
# Every call by nox -s sweep; here a spread of them.
SPREAD = [3, 14, 27]
ALL = list(range(1, 60))


@pytest.mark.parametrize("at", ALL if os.environ.get("SWEEP") else SPREAD)
def test_killed_and_run_again(at: int, tmp_path: Path) -> None:
    cloud = Cloud(tmp_path)
    with cloud.emulator:
        try:
            reached = cloud.interrupted(at, "provision")
            assert reached or at > max(SPREAD), "it ended before: the spread is to be narrowed"
            cloud.invoke("provision")
            store = cloud.store
            own = [name for name in store["service_accounts"] if name.startswith("mlflow-run@")]
            assert len(own) == len(store["buckets"]) == len(store["repositories"]) == 1
            assert len(store["sql_instances"]) == 1
            assert cloud.versions("mlflow-backend-store-uri") == 1
            again = cloud.invoke("provision")
            assert "creat" not in again
            assert cloud.can_sign_in_to_the_database()
        finally:
            cloud.emulator.wipe()
