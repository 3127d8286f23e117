"""`invoke destroy`: asked for by name, data kept unless told, run again until nothing is there."""

from __future__ import annotations

import pytest

from tests.cloud.conftest import PROJECT, Cloud

pytestmark = pytest.mark.docker
DATA = ("mlflow-backend-store-uri", "mlflow-crypto-passphrase")


def secrets(cloud: Cloud) -> set[str]:
    return {name.rpartition("/")[2] for name in cloud.store["secrets"]}


def test_nothing_goes_without_the_name(deployed: Cloud) -> None:
    for arguments in ([], ["--yes", "another"]):
        said = deployed.invoke("destroy", *arguments, code=1)
        assert "service mlflow with its revisions" in said
        assert "nothing was deleted" in said
    assert deployed.get("/ping").text == "OK"


def test_the_data_stays_then_goes_when_told(deployed: Cloud) -> None:
    store = deployed.store
    said = deployed.invoke("destroy", "--yes", "mlflow")
    assert "It keeps the database" in said
    assert not store["run_services"]
    assert not store["run_jobs"]
    assert not store["repositories"]
    assert not [name for name in store["service_accounts"] if name.startswith("mlflow-")]
    assert secrets(deployed) == set(DATA)
    assert set(store["buckets"]) == {f"{PROJECT}-mlflow"}
    assert store["sql_instances"]

    # What was kept is the next deployment's: its new account may read it.
    deployed.invoke("provision")
    account = f"serviceAccount:mlflow-run@{PROJECT}.iam.gserviceaccount.com"
    members = [
        binding["members"]
        for binding in store["policies"][f"projects/{PROJECT}/secrets/{DATA[0]}"]["bindings"]
    ]
    assert any(account in found for found in members)
    assert deployed.versions(DATA[0]) >= 1

    said = deployed.invoke("destroy", "--data", "--yes", "mlflow")
    assert "Cloud SQL instance mlflow: deleted" in said
    assert not store["sql_instances"]
    assert not store["buckets"]
    assert secrets(deployed) == set()
    assert deployed.invoke("destroy", "--data").strip() == "nothing is there"
