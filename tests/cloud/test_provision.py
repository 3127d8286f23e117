"""`invoke provision` and `invoke secrets`: from nothing, again, interrupted, refused, overheard."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.cloud.conftest import CLIENT_SECRET, PROJECT, Cloud, command_lines

pytestmark = pytest.mark.docker
ACCOUNT = f"serviceAccount:mlflow-run@{PROJECT}.iam.gserviceaccount.com"


def test_from_nothing_then_again(cloud: Cloud) -> None:
    with command_lines() as heard:
        said = cloud.invoke("provision")
        said += cloud.invoke("secrets", "--client-file", str(cloud.client))
    assert "Register this redirect URI with the OAuth client: https://mlflow-" in said
    config = tomllib.loads(cloud.secret("mlflow-oauth2-proxy"))
    uri = cloud.secret("mlflow-backend-store-uri")
    password = uri.partition("mlflow:")[2].partition("@")[0]
    passphrase = cloud.secret("mlflow-crypto-passphrase")
    assert config["client_secret"] == CLIENT_SECRET
    assert uri.endswith(
        f"@/mlflow?host=/cloudsql/{PROJECT}:europe-west1:mlflow&options=-c%20role%3Dcloudsqlsuperuser"
    )
    assert len(password) >= 40

    # No secret stood in a command line, in what was said, or in a file that outlived the call.
    assert [line for line in heard if "gcloud" in line and "--flags-file" in line]
    secrets = (password, passphrase, CLIENT_SECRET, config["cookie_secret"])
    files = [cloud.project, cloud.folder / "cloud" / "gcloud"]
    kept = [p.read_text(errors="replace") for folder in files for p in folder.rglob("*") if p.is_file()]
    for secret in secrets:
        assert not [line for line in heard if secret in line]
        assert secret not in said
        assert not [text for text in kept if secret in text]

    before = cloud.state()
    said = cloud.invoke("provision") + cloud.invoke("secrets")
    assert "creat" not in said
    assert "secret mlflow-oauth2-proxy: unchanged" in said
    assert cloud.state() == before
    assert cloud.versions("mlflow-oauth2-proxy") == cloud.versions("mlflow-backend-store-uri") == 1


def test_what_is_there_is_protected(cloud: Cloud) -> None:
    state = cloud.state()
    for name, seconds in ((f"{PROJECT}-mlflow", 7 * 24 * 3600), (f"{PROJECT}-mlflow-build", 0)):
        bucket = f"buckets {name}"
        assert state[f"{bucket} location"] == "EUROPE-WEST1"
        assert state[f"{bucket} softDeletePolicy retentionDurationSeconds"] == str(seconds)
        assert state[f"{bucket} iamConfiguration publicAccessPrevention"] == "enforced"
        assert state[f"{bucket} iamConfiguration uniformBucketLevelAccess enabled"] is True
    (instance,) = cloud.store["sql_instances"].values()
    settings, backup = instance["settings"], instance["settings"]["backupConfiguration"]
    assert (backup["enabled"], backup["pointInTimeRecoveryEnabled"]) == (True, True)
    assert settings["deletionProtectionEnabled"] is True
    assert settings["connectorEnforcement"] == "REQUIRED"
    assert "authorizedNetworks" not in settings["ipConfiguration"]
    accounts = {name for name in state if name.startswith("service_accounts mlflow-") and " email" in name}
    assert len(accounts) == 2


def test_who_may_enter_changes_by_a_new_version(cloud: Cloud) -> None:
    before = tomllib.loads(cloud.secret("mlflow-oauth2-proxy"))
    settings = cloud.project / "invoke.yaml"
    settings.write_text(settings.read_text().replace('- "example.com"', '- "example.org"'))
    cloud.invoke("secrets")
    after = tomllib.loads(cloud.secret("mlflow-oauth2-proxy"))
    assert (before.pop("email_domains"), after.pop("email_domains")) == (["example.com"], ["example.org"])
    assert before == after
    cloud.invoke("secrets", "--rotate", "cookie")
    rotated = tomllib.loads(cloud.secret("mlflow-oauth2-proxy"))
    assert rotated["cookie_secret"] != after["cookie_secret"]
    assert cloud.versions("mlflow-oauth2-proxy") == 3
    assert cloud.versions("mlflow-crypto-passphrase") == 1


def test_a_file_that_is_no_client_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    for content in ("", "{}", '{"installed": {"client_id": "x", "client_secret": "y"}}'):
        (tmp_path / "client.json").write_text(content)
        said = cloud.invoke("secrets", "--client-file", str(tmp_path / "client.json"), code=1)
        assert "is no OAuth client of type web application" in said
    assert cloud.versions("mlflow-oauth2-proxy") == 3
