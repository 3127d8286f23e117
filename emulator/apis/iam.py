"""iam.googleapis.com: service accounts, their keys and policies; workload identity pools."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from cryptography.hazmat.primitives import serialization

from emulator.api import Call, handles
from emulator.apis.forges import KEYS
from emulator.cloud import Cloud
from emulator.errors import GoogleError, NotModelledError, exists, not_found
from emulator.federation import condition, mapping
from emulator.identity import load, new_key
from emulator.roles import ROLES
from emulator.store import now
from emulator.web import Json

ACCOUNT_ID = re.compile(r"[a-z](?:[-a-z0-9]{4,28}[a-z0-9])")


def account(cloud: Cloud, email: str) -> Json:
    """Return a service account.

    Raises:
        GoogleError: there is none.
    """
    found = cloud.store["service_accounts"].get(email)
    if found is None:
        raise not_found(f"Service account {email}")
    return dict(found)


def _email(call: Call) -> str:
    name = call.parameters.get("name") or call.parameters["resource"]
    return name.split("/")[3]


def _on(call: Call) -> str:
    """The account, known to be there: what is not there is 404 for those who may see the project."""
    email = _email(call)
    if email not in call.cloud.store["service_accounts"]:
        call.require("iam.serviceAccounts.get", f"projects/{call.project}")
        raise not_found(f"Unknown service account: {email}")
    return str(account(call.cloud, email)["name"])


@handles("iam.projects.serviceAccounts.create", "iam.serviceAccounts.create")
def create(call: Call) -> Json:
    """Create a service account."""
    name = call.body.get("accountId", "")
    if not ACCOUNT_ID.fullmatch(name):
        raise GoogleError(400, "The account ID must be 6 to 30 lower-case letters, digits and hyphens.")
    email = f"{name}@{call.project}.iam.gserviceaccount.com"
    if email in call.cloud.store["service_accounts"]:
        raise exists(f"Service account {name} within project projects/{call.project}")
    number = str(100000000000000000000 + call.cloud.store.next("service_accounts"))
    created = {
        **call.body.get("serviceAccount", {}),
        "name": f"projects/{call.project}/serviceAccounts/{email}",
        "projectId": call.project,
        "uniqueId": number,
        "oauth2ClientId": number,
        "email": email,
        "etag": "MDEwMjE5MjA=",
    }
    call.cloud.store["service_accounts"][email] = created
    return created


@handles("iam.projects.serviceAccounts.get", "iam.serviceAccounts.get", _on)
def get(call: Call) -> Json:
    """Describe a service account."""
    return account(call.cloud, _email(call))


@handles("iam.projects.serviceAccounts.list", "iam.serviceAccounts.list")
def list_accounts(call: Call) -> Json:
    """List a project's service accounts."""
    accounts = call.cloud.store["service_accounts"].values()
    return {"accounts": [a for a in accounts if a["projectId"] == call.project]}


@handles("iam.projects.serviceAccounts.delete", "iam.serviceAccounts.delete", _on)
def delete(call: Call) -> Json:
    """Delete a service account; its grants stay behind and name nobody."""
    found = call.cloud.store["service_accounts"].pop(_email(call))
    call.cloud.access.forget(found["name"])
    call.cloud.access.bury(f"serviceAccount:{found['email']}", found["uniqueId"])
    keys = call.cloud.store["account_keys"]
    for key in [key for key, value in keys.items() if value["email"] == found["email"]]:
        del keys[key]
    return {}


@handles("iam.projects.serviceAccounts.getIamPolicy", "iam.serviceAccounts.getIamPolicy", _on)
def get_policy(call: Call) -> Json:
    """Return who may use a service account."""
    return call.cloud.access.policy(account(call.cloud, _email(call))["name"])


@handles("iam.projects.serviceAccounts.setIamPolicy", "iam.serviceAccounts.setIamPolicy", _on)
def set_policy(call: Call) -> Json:
    """Say who may use a service account."""
    return call.cloud.access.set_policy(account(call.cloud, _email(call))["name"], call.body["policy"])


@handles("iam.projects.serviceAccounts.keys.create", "iam.serviceAccountKeys.create", _on)
def create_key(call: Call) -> Json:
    """Make a key; its private half is in this answer only."""
    email = _email(call)
    key_id = f"{call.cloud.store.next('keys'):040x}"
    private = new_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public = load(private).public_key().public_bytes(serialization.Encoding.PEM, form).decode()
    call.cloud.store["account_keys"][key_id] = {"email": email, "public": public}
    file = {
        "type": "service_account",
        "project_id": call.project,
        "private_key_id": key_id,
        "private_key": private,
        "client_email": email,
        "client_id": account(call.cloud, email)["uniqueId"],
        "auth_uri": "https://accounts.google.com/o/oauth2/auth",
        "token_uri": "https://oauth2.googleapis.com/token",
        "universe_domain": "googleapis.com",
    }
    return {
        "name": f"{account(call.cloud, email)['name']}/keys/{key_id}",
        "privateKeyType": "TYPE_GOOGLE_CREDENTIALS_FILE",
        "privateKeyData": base64.b64encode(json.dumps(file).encode()).decode(),
        "validAfterTime": now(),
        "keyAlgorithm": "KEY_ALG_RSA_2048",
        "keyOrigin": "GOOGLE_PROVIDED",
        "keyType": "USER_MANAGED",
    }


@handles("iam.roles.get")
def get_role(call: Call) -> Json:
    """Describe a role that the emulator knows."""
    name = call.parameters["name"]
    if name not in ROLES:
        raise not_found(f"The role {name}")
    return {"name": name, "title": name, "stage": "GA"}


POOLS = "iam.projects.locations.workloadIdentityPools"


def _create_in(call: Call, collection: str, kind: str, identifier: str) -> Json:
    name = f"{call.resource}/{kind}/{identifier}"
    parent_pool = name.partition("/providers/")[0]
    if kind == "providers" and parent_pool not in call.cloud.store["pools"]:
        raise not_found(parent_pool)
    if name in call.cloud.store[collection]:
        raise exists(f"Requested entity {name}")
    number = call.cloud.number(call.project)
    shown = name.replace(f"projects/{call.project}/", f"projects/{number}/", 1)
    call.cloud.store[collection][name] = {**call.body, "name": shown, "state": "ACTIVE"}
    return _done(call, shown)


def _done(call: Call, name: str) -> Json:
    operation = f"{name}/operations/{call.cloud.store.next('operations')}"
    call.cloud.store["operations"][operation] = {"name": operation, "done": True}
    return {"name": operation, "done": True}


def _get_in(call: Call, collection: str) -> Json:
    if call.resource not in call.cloud.store[collection]:
        raise not_found(f"Requested entity {call.resource}")
    return dict(call.cloud.store[collection][call.resource])


@handles(f"{POOLS}.create", "iam.workloadIdentityPools.create")
def create_pool(call: Call) -> Json:
    """Create a pool of identities from elsewhere, such as a forge's pipelines."""
    return _create_in(call, "pools", "workloadIdentityPools", call.query["workloadIdentityPoolId"])


@handles(f"{POOLS}.get", "iam.workloadIdentityPools.get")
def get_pool(call: Call) -> Json:
    """Describe a pool."""
    return _get_in(call, "pools")


@handles(f"{POOLS}.providers.create", "iam.workloadIdentityPoolProviders.create")
def create_provider(call: Call) -> Json:
    """Create a provider in a pool."""
    _check_provider(call.body)
    return _create_in(call, "pool_providers", "providers", call.query["workloadIdentityPoolProviderId"])


@handles(f"{POOLS}.providers.get", "iam.workloadIdentityPoolProviders.get")
def get_provider(call: Call) -> Json:
    """Describe a provider."""
    return _get_in(call, "pool_providers")


@handles(f"{POOLS}.providers.patch", "iam.workloadIdentityPoolProviders.update")
def update_provider(call: Call) -> Json:
    """Change those fields of a provider that the mask names."""
    provider = _get_in(call, "pool_providers")
    for path in call.query["updateMask"].split(","):
        names = path.split(".")
        given: Any = call.body
        for name in names:
            given = given.get(name) if isinstance(given, dict) else None
        changed = given if len(names) == 1 else {**provider.get(names[0], {}), names[1]: given}
        provider[names[0]] = changed
    _check_provider(provider)
    call.cloud.store["pool_providers"][call.resource] = provider
    return _done(call, provider["name"])


def _check_provider(provider: Json) -> None:
    """Refuse what Google refuses of a provider, or what the emulator does not model."""
    oidc = provider.get("oidc")
    if not oidc:
        raise NotModelledError("providers other than OpenID Connect's")
    if not oidc.get("issuerUri", "").startswith("https://"):
        raise GoogleError(400, "The issuer URI must be a URL with https.")
    if "google.subject" not in mapping(provider.get("attributeMapping", {})):
        raise GoogleError(400, "The attribute mapping must include google.subject.")
    if not condition(provider.get("attributeCondition", "")) and oidc["issuerUri"] in KEYS:
        raise GoogleError(400, "The attribute condition must reference one of the provider's claims.")


@handles(f"{POOLS}.operations.get")
@handles(f"{POOLS}.providers.operations.get")
def get_operation(call: Call) -> Json:
    """Return an operation of this API."""
    found: Json | None = call.cloud.store["operations"].get(call.parameters["name"])
    if found is None:
        raise not_found(f"Operation {call.parameters['name']}")
    return dict(found)
