"""Where people sign in who are not at Google: github.com, gitlab.com, Microsoft Entra ID.

https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps
https://docs.gitlab.com/integration/openid_connect_provider
https://learn.microsoft.com/en-us/entra/identity-platform/id-token-claims-reference
"""

from __future__ import annotations

import base64
import html
import secrets
import time
import uuid
from typing import Any
from urllib.parse import unquote, urlencode

from emulator.apis.forges import GITLAB, key_set, sign
from emulator.apis.oauth2 import challenge_of
from emulator.cloud import Cloud
from emulator.pages import serves
from emulator.web import Json, Request, Response

GITHUB_HOST, API_HOST, GITLAB_HOST = "github.com", "api.github.com", "gitlab.com"
ENTRA_HOST, GRAPH_HOST = "login.microsoftonline.com", "graph.microsoft.com"
TENANT = "72f988bf-86f1-41af-91ab-2d7cd011db47"
ENTRA = f"https://{ENTRA_HOST}/{TENANT}/v2.0"
ISSUERS = {GITLAB_HOST: GITLAB, ENTRA_HOST: ENTRA}
LIFETIME = {GITLAB_HOST: 120, ENTRA_HOST: 3600}  # seconds, of identity tokens
PAGE = """<!doctype html><title>Sign in (emulated {host})</title>
<h1>Sign in</h1><p>This is an emulator: nobody is asked for a password.</p>
<form method="post">{hidden}<label>Name
<input name="login" required autofocus></label>
<button>Next</button></form>"""
HOSTS = r"github\.com|gitlab\.com|login\.microsoftonline\.com"


def register_person(cloud: Cloud, host: str, login: str, **facts: Any) -> None:
    """Let somebody sign in.

    Args:
        cloud: keeps it.
        host: GITHUB_HOST, GITLAB_HOST or ENTRA_HOST.
        login: what they type.
        facts: at GitHub `emails`, as its API lists them; elsewhere claims that differ from the usual, and
            None for one that is not there.
    """
    with cloud.store.lock:
        cloud.store["people"][f"{host} {login}"] = facts


def claims(cloud: Cloud, host: str, login: str, scope: str = "openid email profile") -> Json:
    """Return what an identity token says of somebody, without whom it is for.

    Raises:
        KeyError: nobody is registered by that name.
    """
    facts = dict(cloud.store["people"][f"{host} {login}"])
    number = uuid.uuid5(uuid.NAMESPACE_DNS, f"{host} {login}")
    if host == GITLAB_HOST:
        # The primary address, confirmed or not, where the scope is there; else the public one.
        said: Json = {
            "sub": str(number.int % 10**8),
            "sub_legacy": number.hex * 2,
            "name": login.title(),
            "nickname": login,
            "preferred_username": login,
            "email_verified": True,
            "profile": f"{GITLAB}/{login}",
            "groups_direct": [],
        }
        public = facts.pop("public_email", None)
        said |= facts
        if "email" not in scope.split():
            said |= {"email": public, "email_verified": True if public else None}
    else:
        # No `email_verified`; `email` of whom the directory has one, `preferred_username` of all.
        said = {
            "ver": "2.0",
            "sub": secrets.token_urlsafe(32) if facts.pop("new_sub", False) else number.hex,
            "oid": str(number),
            "tid": TENANT,
            "name": login.title(),
            "preferred_username": login,
            "rh": "0.x",
            "uti": secrets.token_urlsafe(16),
            **facts,
        }
        if "email" not in scope.split():
            said.pop("email", None)
    return {name: value for name, value in said.items() if value is not None}


def id_token(cloud: Cloud, host: str, login: str, audience: str, **changed: Any) -> str:
    """Return the identity token that somebody would get, `changed` in these claims."""
    now = int(time.time())
    scope = changed.pop("scope", "openid email profile")
    said = {"iss": ISSUERS[host], "aud": audience, "iat": now, "nbf": now, "exp": now + LIFETIME[host]}
    said |= claims(cloud, host, login, scope) | changed
    return sign(cloud, ISSUERS[host], {name: value for name, value in said.items() if value is not None})


@serves(r"login\.microsoftonline\.com", "GET", r"/[^/]+/v2\.0/\.well-known/openid-configuration")
def entra_configuration(cloud: Cloud, request: Request) -> Response:
    """Name the tenant as the issuer, whatever the address calls it; for many tenants' addresses a pattern."""
    named = request.path.split("/")[1]
    many = named in ("common", "organizations")
    tenant = "{tenantid}" if many else TENANT
    base = f"https://{ENTRA_HOST}/{named if many else TENANT}"
    return Response.json(
        {
            "issuer": f"https://{ENTRA_HOST}/{tenant}/v2.0",
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "userinfo_endpoint": f"https://{GRAPH_HOST}/oidc/userinfo",
            "jwks_uri": f"{base}/discovery/v2.0/keys",
            "response_types_supported": ["code", "id_token"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
        }
    )


@serves(r"login\.microsoftonline\.com", "GET", r"/[^/]+/discovery/v2\.0/keys")
def entra_keys(cloud: Cloud, request: Request) -> Response:
    """The key that identity tokens are signed with; Microsoft says nothing of its algorithm."""
    (key,) = key_set(cloud, ENTRA)["keys"]
    del key["alg"]
    return Response.json({"keys": [key]})


@serves(HOSTS, "GET|POST", r"/login/oauth/authorize|/oauth/authorize|/[^/]+/oauth2/v2\.0/authorize")
def authorize(cloud: Cloud, request: Request) -> Response:
    """Show the sign-in page; sent back with a name, return to the client with a code."""
    form = request.form()
    client = cloud.store["oauth_clients"].get(form.get("client_id", ""))
    if client is None:
        return Response.text("unknown client\n", 404)
    if form.get("redirect_uri") not in client["redirect_uris"]:
        return Response.text("this redirect_uri is not registered\n", 400)
    if request.method == "GET":
        hidden = "".join(
            f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
            for name, value in form.items()
        )
        return Response.text(PAGE.format(host=request.host, hidden=hidden), kind="text/html")
    if f"{request.host} {form['login']}" not in cloud.store["people"]:
        return Response.text("nobody has this name here\n", 403)
    code = secrets.token_urlsafe(20)
    with cloud.store.lock:
        cloud.store["codes"][code] = {**form, "host": request.host}
    answer = urlencode({"code": code, "state": form.get("state", "")})
    return Response(302, b"", [("location", f"{form['redirect_uri']}?{answer}")])


@serves(HOSTS, "POST", r"/login/oauth/access_token|/oauth/token|/[^/]+/oauth2/v2\.0/token")
def token(cloud: Cloud, request: Request) -> Response:
    """Exchange a code, once, for an access token and, but at GitHub, an identity token."""
    form = request.form()
    kind, _, basic = request.headers.get("authorization", "").partition(" ")
    if kind == "Basic":
        names = (unquote(part) for part in base64.b64decode(basic).decode().split(":", 1))
        form["client_id"], form["client_secret"] = names
    with cloud.store.lock:
        grant = cloud.store["codes"].pop(form.get("code", ""), None)
        client = cloud.store["oauth_clients"].get(form.get("client_id", ""), {})
    challenge = grant and grant.get("code_challenge")
    if (
        not grant
        or client.get("client_secret") != form.get("client_secret")
        or any(grant[name] != form.get(name) for name in ("client_id", "redirect_uri"))
        or (challenge and challenge != challenge_of(form.get("code_verifier", "")))
    ):
        # GitHub says so with 200
        return Response.json({"error": "invalid_grant"}, 200 if request.host == GITHUB_HOST else 400)
    host, login, scope = grant["host"], grant["login"], grant.get("scope", "")
    access = f"gho_{secrets.token_hex(18)}"
    with cloud.store.lock:
        cloud.store["people_tokens"][access] = {"host": host, "login": login, "scope": scope}
    made = {"access_token": access, "token_type": "bearer", "scope": scope}
    if host == GITHUB_HOST:
        kind = "application/x-www-form-urlencoded"
        return Response(200, urlencode(made).encode(), [("content-type", kind)])
    nonce = cloud.store["people"][f"{host} {login}"].get("nonce", grant.get("nonce"))
    made["id_token"] = id_token(cloud, host, login, grant["client_id"], nonce=nonce, scope=scope)
    return Response.json({**made, "expires_in": LIFETIME[host]})


def _bearer(cloud: Cloud, request: Request, host: str) -> Json:
    """Return whose access token a request has; {} when it is none of this host's."""
    token = request.headers.get("authorization", "").split(" ")[-1]
    found: Json = cloud.store["people_tokens"].get(token, {})
    return found if found.get("host") == host else {}


@serves(r"gitlab\.com", "GET", "/oauth/userinfo")
def gitlab_user(cloud: Cloud, request: Request) -> Response:
    """What the identity token says, and all groups."""
    found = _bearer(cloud, request, GITLAB_HOST)
    if not found:
        return Response.json({"error": "invalid_token"}, 401)
    said = claims(cloud, GITLAB_HOST, found["login"], found["scope"])
    said["groups"] = said.pop("groups_direct")
    return Response.json(said)


@serves(r"graph\.microsoft\.com", "GET", "/oidc/userinfo")
def graph_user(cloud: Cloud, request: Request) -> Response:
    """Less than the identity token says: no `preferred_username`."""
    found = _bearer(cloud, request, ENTRA_HOST)
    if not found:
        return Response.json({"error": {"code": "InvalidAuthenticationToken"}}, 401)
    said = claims(cloud, ENTRA_HOST, found["login"], found["scope"])
    return Response.json({name: said[name] for name in ("sub", "name", "email") if name in said})


@serves(r"api\.github\.com", "GET", r"/|/user|/user/(emails|orgs|teams)")
def github_api(cloud: Cloud, request: Request) -> Response:
    """Who the holder of an access token is."""
    found = _bearer(cloud, request, GITHUB_HOST)
    if not found:
        return Response.json({"message": "Bad credentials"}, 401)
    emails = cloud.store["people"][f"{GITHUB_HOST} {found['login']}"]["emails"]
    public = next((entry["email"] for entry in emails if entry.get("visibility") == "public"), None)
    return Response.json(
        {
            "/": {"current_user_url": f"https://{API_HOST}/user"},
            "/user": {"login": found["login"], "id": 1, "email": public},
            "/user/emails": emails,
            "/user/orgs": [],
            "/user/teams": [],
        }[request.path]
    )
