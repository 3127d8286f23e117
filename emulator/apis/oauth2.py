"""oauth2.googleapis.com and www.googleapis.com/oauth2: tokens for grants, what a token says, the keys."""

from __future__ import annotations

import base64
import hashlib
import time

from emulator.cloud import Cloud
from emulator.errors import GoogleError
from emulator.identity import GCLOUD_CLIENT_ID, LIFETIME, subject
from emulator.pages import serves
from emulator.web import Json, Request, Response

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
HOSTS = r"(oauth2|www)\.googleapis\.com"


class OAuthError(Exception):
    """A refusal of the token endpoint: RFC 6749, section 5.2."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        """Refuse with a code of the specification and a sentence."""
        super().__init__(description)
        self.response = Response.json({"error": error, "error_description": description}, status)


@serves(HOSTS, "POST", r"/token|/oauth2/v[34]/token")
@serves(r"accounts\.google\.com", "POST", r"/o/oauth2/token")
def token(cloud: Cloud, request: Request) -> Response:
    """Exchange a grant for tokens."""
    form = request.form()
    grants = {
        JWT_BEARER: _service_account,
        "authorization_code": _authorization_code,
        "refresh_token": _refresh_token,
    }
    kind = form.get("grant_type", "")
    method, message = f"oauth2.token.{kind.rpartition(':')[2]}", ""
    fault = cloud.faults.take(method)
    if fault:
        fault.strike()
    try:
        if kind not in grants:
            raise OAuthError("unsupported_grant_type", f"Invalid grant_type: {kind}")
        with cloud.store.lock:
            answer = Response.json(grants[kind](cloud, form))
            cloud.store.save()
    except OAuthError as error:
        answer, message = error.response, str(error)
    cloud.log_call(method, "", request, answer.status, message)
    return answer


def _service_account(cloud: Cloud, form: dict[str, str]) -> Json:
    """A token for an assertion that a service account signed."""
    try:
        claims = cloud.identity.signed_by_account(form.get("assertion", ""))
    except GoogleError as error:
        raise OAuthError("invalid_grant", error.message) from None
    email = claims["iss"]
    if "target_audience" in claims:
        return {"id_token": cloud.identity.id_token(email, claims["target_audience"])}
    return _access(cloud, f"serviceAccount:{email}")


def _refresh_token(cloud: Cloud, form: dict[str, str]) -> Json:
    """New tokens of a user who signed in before."""
    client = _client(cloud, form)
    email = cloud.identity.refreshed(form.get("refresh_token", ""), client)
    if email is None:
        raise OAuthError("invalid_grant", "Token has been expired or revoked.")
    return {**_access(cloud, f"user:{email}"), "id_token": cloud.identity.id_token(email, client)}


def _authorization_code(cloud: Cloud, form: dict[str, str]) -> Json:
    """Tokens of a user who signs in at accounts.py's page right now."""
    client = _client(cloud, form)
    grant = cloud.store["codes"].pop(form.get("code", ""), None)
    if grant is None or grant["client"] != client or grant["expires"] < time.time():
        raise OAuthError("invalid_grant", "Malformed auth code.")
    if grant["redirect_uri"] != form.get("redirect_uri"):
        raise OAuthError("redirect_uri_mismatch", "Bad Request")
    if grant["challenge"] and grant["challenge"] != challenge_of(form.get("code_verifier", "")):
        raise OAuthError("invalid_grant", "Invalid code verifier.")
    email, scopes = grant["email"], grant["scope"].split()
    claims = {"nonce": grant["nonce"]} if grant["nonce"] else {}
    domain = email.rpartition("@")[2]
    if domain != "gmail.com":
        claims["hd"] = domain
    answer = {**_access(cloud, f"user:{email}"), "scope": grant["scope"]}
    if "openid" in scopes or "email" in scopes:
        with_email = "email" in scopes
        answer["id_token"] = cloud.identity.id_token(email, client, with_email=with_email, **claims)
    if grant["offline"]:
        answer["refresh_token"] = cloud.identity.refresh_token(email, client)
    return answer


def _client(cloud: Cloud, form: dict[str, str]) -> str:
    """Return the id of the OAuth client, whose secret must be right."""
    client = form.get("client_id", "")
    if client == GCLOUD_CLIENT_ID:
        return client
    known = cloud.store["oauth_clients"].get(client)
    if known is None:
        raise OAuthError("invalid_client", "The OAuth client was not found.", 401)
    if known["client_secret"] != form.get("client_secret"):
        raise OAuthError("invalid_client", "Unauthorized", 401)
    return client


def challenge_of(verifier: str) -> str:
    """Return what a client sends before a verifier: RFC 7636, S256."""
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _access(cloud: Cloud, principal: str) -> Json:
    return {
        "access_token": cloud.identity.access_token(principal),
        "expires_in": LIFETIME - 1,
        "token_type": "Bearer",
        "scope": "openid email https://www.googleapis.com/auth/cloud-platform",
    }


def _email(cloud: Cloud, token: str) -> str:
    """Return the address of an access token's user or service account; "" for others."""
    kind, _, address = cloud.identity.principal(token).partition(":")
    return address if kind in ("user", "serviceAccount") else ""


@serves(HOSTS, "GET|POST", r"/tokeninfo|/oauth2/v[123]/tokeninfo")
def token_info(cloud: Cloud, request: Request) -> Response:
    """Say whose an access token or an identity token is."""
    form = request.form()
    try:
        if form.get("id_token"):
            claims = cloud.identity.verified(form["id_token"])
            return Response.json({name: str(value) for name, value in claims.items()})
        email = _email(cloud, form.get("access_token", ""))
    except GoogleError:
        email = ""
    if not email:
        return Response.json({"error": "invalid_token", "error_description": "Invalid Value"}, 400)
    return Response.json(
        {"email": email, "email_verified": "true", "sub": subject(email), "expires_in": "3599"}
    )


@serves(r"www\.googleapis\.com", "GET", r"/oauth2/v3/userinfo")
@serves(r"openidconnect\.googleapis\.com", "GET", r"/v1/userinfo")
def user_info(cloud: Cloud, request: Request) -> Response:
    """Describe the bearer of an access token."""
    email = _email(cloud, request.bearer)
    if not email:
        raise GoogleError(401, "Request is missing required authentication credential.")
    return Response.json({"sub": subject(email), "email": email, "email_verified": True})


@serves(r"www\.googleapis\.com", "GET", r"/oauth2/v3/certs")
def certs(cloud: Cloud, request: Request) -> Response:
    """The key that identity tokens are signed with."""
    return Response.json(cloud.identity.key_set())
