"""APIs, projects, service accounts, tokens and refusals, through the real gcloud."""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path
from typing import Any

import jwt
import pytest

from emulator import Emulator
from emulator.store import Store
from tests.emulator.conftest import NUMBER, PROJECT, Gcloud


def get(emulator: Emulator, host: str, path: str) -> tuple[int, bytes]:
    """Ask a host through the proxy, trusting the emulator's authority only."""
    context = ssl.create_default_context(cafile=str(emulator.authority.certificate))
    connection = http.client.HTTPSConnection("127.0.0.1", emulator.port, context=context)
    connection.set_tunnel(host, 443)
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read()


def test_an_api_that_is_not_enabled_is_refused_until_it_is(tmp_path: Path) -> None:
    with Emulator(tmp_path, project="fresh-1") as fresh:
        gcloud = Gcloud(fresh)
        error = gcloud.refused("iam", "service-accounts", "create", "server")
        assert "iam.googleapis.com has not been used in project" in error
        gcloud("services", "enable", "iam.googleapis.com", "secretmanager.googleapis.com")
        gcloud("iam", "service-accounts", "create", "server")
        assert "server@fresh-1.iam.gserviceaccount.com" in fresh.cloud.store["service_accounts"]
        listed = gcloud("services", "list", "--enabled", "--format=value(config.name)").split()
        assert "secretmanager.googleapis.com" in listed
        assert "run.googleapis.com" not in listed


def test_state_and_credentials_outlive_a_restart(tmp_path: Path) -> None:
    with Emulator(tmp_path, project="kept-1") as first:
        Gcloud(first)("services", "enable", "iam.googleapis.com")
        port = first.port
    with Emulator(tmp_path, project="kept-1", port=port) as second:
        Gcloud(second)("iam", "service-accounts", "create", "after-restart")
        assert set(second.cloud.store["service_accounts"]) == {"after-restart@kept-1.iam.gserviceaccount.com"}
    assert (tmp_path / "state.json").stat().st_mode & 0o77 == 0


def test_project_policy(gcloud: Gcloud, store: Store, emulator: Emulator) -> None:
    account = f"policy-test@{PROJECT}.iam.gserviceaccount.com"
    binding = ("projects", "add-iam-policy-binding", PROJECT, "--condition=None")
    error = gcloud.refused(*binding, f"--member=serviceAccount:{account}", "--role=roles/cloudsql.client")
    assert "does not exist" in error
    gcloud("iam", "service-accounts", "create", "policy-test")
    gcloud(*binding, f"--member=serviceAccount:{account}", "--role=roles/cloudsql.client")
    granted = {b["role"]: b["members"] for b in store["policies"][f"projects/{PROJECT}"]["bindings"]}
    assert granted["roles/cloudsql.client"] == [f"serviceAccount:{account}"]
    error = gcloud.refused(*binding, f"--member=serviceAccount:{account}", "--role=roles/invented")
    assert "does not model the role roles/invented" in error
    assert gcloud("projects", "describe", PROJECT, "--format=value(projectNumber)") == NUMBER


def test_who_has_no_grant_is_refused(gcloud: Gcloud, store: Store) -> None:
    before = set(store["service_accounts"])
    error = gcloud.refused("iam", "service-accounts", "create", "by-stranger", user="stranger@example.com")
    assert "Permission 'iam.serviceAccounts.create' denied" in error
    assert set(store["service_accounts"]) == before


def test_impersonation_needs_the_token_creator_role(gcloud: Gcloud, emulator: Emulator) -> None:
    email = f"machine@{PROJECT}.iam.gserviceaccount.com"
    gcloud("iam", "service-accounts", "create", "machine")
    token = (
        "auth",
        "print-identity-token",
        f"--impersonate-service-account={email}",
        "--audiences=https://x.test",
    )
    user = "ann@example.com"
    gcloud.refused(*token, "--include-email", user=user)
    role = "--role=roles/iam.serviceAccountTokenCreator"
    gcloud("iam", "service-accounts", "add-iam-policy-binding", email, f"--member=user:{user}", role)
    claims = emulator.cloud.identity.verified(
        gcloud(*token, "--include-email", user=user), ["https://x.test"]
    )
    assert claims["email"] == email
    assert "email" not in emulator.cloud.identity.verified(gcloud(*token, user=user), ["https://x.test"])


def test_a_users_identity_token_verifies_against_the_published_keys(
    gcloud: Gcloud, emulator: Emulator
) -> None:
    token = gcloud("auth", "print-identity-token", user="ann@example.com")
    configuration = json.loads(get(emulator, "accounts.google.com", "/.well-known/openid-configuration")[1])
    host, _, path = configuration["jwks_uri"].removeprefix("https://").partition("/")
    keys = jwt.PyJWKSet.from_json(get(emulator, host, f"/{path}")[1].decode())
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(
        token, key.key, ["RS256"], options={"verify_aud": False}, issuer=configuration["issuer"]
    )
    assert claims["email"] == "ann@example.com"
    assert claims["aud"] == "32555940559.apps.googleusercontent.com"


def test_a_service_accounts_own_key(gcloud: Gcloud, emulator: Emulator, tmp_path: Path) -> None:
    email = f"keyholder@{PROJECT}.iam.gserviceaccount.com"
    gcloud("iam", "service-accounts", "create", "keyholder")
    key = tmp_path / "key.json"
    gcloud("iam", "service-accounts", "keys", "create", str(key), f"--iam-account={email}")
    gcloud("auth", "activate-service-account", f"--key-file={key}", user="key@example.com")
    override = f"--credential-file-override={key}"
    token = gcloud(
        "auth", "print-identity-token", override, "--audiences=https://x.test", user="key@example.com"
    )
    assert emulator.cloud.identity.verified(token, ["https://x.test"])["email"] == email
    error = gcloud.refused("projects", "describe", PROJECT, override, user="key@example.com")
    assert f"{email}" in error


def test_what_is_not_modelled_is_refused_loudly(gcloud: Gcloud, emulator: Emulator) -> None:
    error = gcloud.refused("iam", "roles", "list", f"--project={PROJECT}")
    assert "does not model the method iam.projects.roles.list" in error
    status, body = get(emulator, "compute.googleapis.com", "/compute/v1/projects")
    assert (status, body) == (
        502,
        b"the emulator models nothing at compute.googleapis.com/compute/v1/projects\n",
    )


@pytest.mark.parametrize("status", [403, 404, 409, 429])
def test_injected_faults(gcloud: Gcloud, emulator: Emulator, status: int) -> None:
    emulator.cloud.faults.add("cloudresourcemanager.projects.get", status)
    gcloud.refused("projects", "describe", PROJECT)
    gcloud("projects", "describe", PROJECT)


@pytest.mark.parametrize("status", [0, 500, 503])
def test_gcloud_tries_again_after_a_passing_fault(gcloud: Gcloud, emulator: Emulator, status: int) -> None:
    emulator.cloud.faults.add("cloudresourcemanager.projects.get", status)
    gcloud("projects", "describe", PROJECT)
    seen: list[Any] = [c["status"] for c in emulator.cloud.calls if c["method"].endswith("projects.get")]
    assert seen[-2:] == [status, 200]
