"""iamcredentials.googleapis.com: impersonation of service accounts."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from emulator.api import Call, handles
from emulator.apis.iam import account
from emulator.errors import GoogleError
from emulator.identity import LIFETIME
from emulator.web import Json

ACCOUNTS = "iamcredentials.projects.serviceAccounts"


def _impersonated(call: Call, permission: str) -> str:
    """Return the address of the account that the caller may be.

    Raises:
        GoogleError: it may not, or there is no such account. Google tells neither from the other.
    """
    email = call.parameters["name"].split("/")[3]
    try:
        found = account(call.cloud, email)
        call.require(permission, found["name"])
    except GoogleError as error:
        message = f"Permission '{permission}' denied on resource (or it may not exist)."
        raise GoogleError(401 if error.code == 401 else 403, message) from None
    return email


@handles(f"{ACCOUNTS}.generateAccessToken")
def access_token(call: Call) -> Json:
    """Make an access token of the account."""
    email = _impersonated(call, "iam.serviceAccounts.getAccessToken")
    expires = datetime.now(UTC) + timedelta(seconds=LIFETIME)
    token = call.cloud.identity.access_token(f"serviceAccount:{email}")
    return {"accessToken": token, "expireTime": expires.strftime("%Y-%m-%dT%H:%M:%SZ")}


@handles(f"{ACCOUNTS}.generateIdToken")
def id_token(call: Call) -> Json:
    """Make an identity token of the account; with its address only if `includeEmail` says so."""
    email = _impersonated(call, "iam.serviceAccounts.getOpenIdToken")
    if not call.body.get("audience"):
        raise GoogleError(400, "The audience is required.")
    with_email = bool(call.body.get("includeEmail"))
    return {"token": call.cloud.identity.id_token(email, call.body["audience"], with_email=with_email)}


@handles(f"{ACCOUNTS}.signBlob")
def sign_blob(call: Call) -> Json:
    """Sign bytes with the account's key, which in here is one for all accounts."""
    _impersonated(call, "iam.serviceAccounts.signBlob")
    signed = call.cloud.identity.key.sign(
        base64.b64decode(call.body["payload"]), padding.PKCS1v15(), hashes.SHA256()
    )
    return {"keyId": call.cloud.identity.key_id, "signedBlob": base64.b64encode(signed).decode()}
