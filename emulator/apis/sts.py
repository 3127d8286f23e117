"""sts.googleapis.com: tokens from elsewhere are exchanged for Google's. federation.py has the rules."""

from __future__ import annotations

import time

from emulator.apis.oauth2 import OAuthError
from emulator.cloud import Cloud
from emulator.errors import GoogleError, NotModelledError
from emulator.federation import IAM, FederationError, exchange
from emulator.identity import LIFETIME
from emulator.pages import serves
from emulator.web import Json, Request, Response

HOST = "sts.googleapis.com"
PATTERN = r"sts\.googleapis\.com"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105
TYPE = "urn:ietf:params:oauth:token-type:"


@serves(PATTERN, "POST", "/v1/token")
def token(cloud: Cloud, request: Request) -> Response:
    """Exchange a token of a workload identity pool's provider for an access token: RFC 8693."""
    fault = cloud.faults.take("sts.token")
    principal, message = "", ""
    try:
        if fault:
            fault.strike()
        with cloud.store.lock:
            principal = _exchange(cloud, request.form())
            access = cloud.identity.access_token(principal)
            cloud.store.save()
        answer = Response.json(
            {
                "access_token": access,
                "issued_token_type": f"{TYPE}access_token",
                "token_type": "Bearer",
                "expires_in": LIFETIME - 1,
            }
        )
    except OAuthError as error:
        answer, message = error.response, str(error)
    except GoogleError as error:
        answer, message = error.response(), error.message
    cloud.log_call("sts.token", principal, request, answer.status, message)
    return answer


def _exchange(cloud: Cloud, form: dict[str, str]) -> str:
    """Return the principal that a request asks to be.

    Raises:
        OAuthError: the token is not taken.
        GoogleError: the API is not enabled.
    """
    wanted = {
        "grant_type": (TOKEN_EXCHANGE,),
        "requested_token_type": (f"{TYPE}access_token",),
        "subject_token_type": (f"{TYPE}jwt", f"{TYPE}id_token"),
    }
    for name, values in wanted.items():
        if form.get(name) not in values:
            raise OAuthError("invalid_request", f"Invalid value for {name!r}: {form.get(name)}")
    if not form.get("scope"):
        raise OAuthError("invalid_request", "Missing required parameter: scope")
    if form.get("options"):
        raise NotModelledError("options of token exchanges")
    audience = form.get("audience", "")
    if audience.startswith(f"{IAM}projects/"):
        project = cloud.project(audience.removeprefix(IAM).split("/")[1])
        cloud.require_enabled(HOST, project["projectId"])
    try:
        return exchange(cloud, audience, form.get("subject_token", ""))
    except FederationError as error:
        raise OAuthError(error.error, str(error)) from None


@serves(PATTERN, "POST", "/v1/introspect")
def introspect(cloud: Cloud, request: Request) -> Response:
    """Say whose an access token is, as `gcloud auth login --cred-file` asks: RFC 7662."""
    answer: Json = {"active": False}
    try:
        principal = cloud.identity.principal(request.form().get("token", "")).partition(" ")[0]
    except GoogleError:
        principal = ""
    if principal.startswith("principal:"):
        issued = int(time.time())
        answer = {"active": True, "username": principal, "iss": f"https://{HOST}/", "iat": issued}
    cloud.log_call("sts.introspect", principal, request, 200, "")
    return Response.json(answer)
