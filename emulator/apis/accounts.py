"""accounts.google.com: the OpenID provider's description and the sign-in page."""

from __future__ import annotations

import html
import secrets
import time
from urllib.parse import urlencode

from emulator.cloud import Cloud
from emulator.identity import ISSUER
from emulator.pages import serves
from emulator.web import Request, Response

HOST = r"accounts\.google\.com"
PAGE = """<!doctype html><title>Sign in (emulated Google)</title>
<h1>Sign in</h1><p>This is an emulator: any address is believed.</p>
<form method="post">{hidden}<label>E-mail
<input name="email" type="email" value="{hint}" required autofocus></label>
<button>Next</button></form>"""


@serves(HOST, "GET", r"/\.well-known/openid-configuration")
def configuration(cloud: Cloud, request: Request) -> Response:
    """Google's own, as of 2026, less what the emulator does not do."""
    return Response.json(
        {
            "issuer": ISSUER,
            "authorization_endpoint": f"{ISSUER}/o/oauth2/v2/auth",
            "token_endpoint": "https://oauth2.googleapis.com/token",
            "userinfo_endpoint": "https://openidconnect.googleapis.com/v1/userinfo",
            "jwks_uri": "https://www.googleapis.com/oauth2/v3/certs",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid", "email", "profile"],
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
            "code_challenge_methods_supported": ["S256"],
        }
    )


@serves(HOST, "GET|POST", r"/o/oauth2/(v2/)?auth")
def sign_in(cloud: Cloud, request: Request) -> Response:
    """Show the sign-in page; sent back with an address, return to the client with a code."""
    form = request.form()
    client = cloud.store["oauth_clients"].get(form.get("client_id", ""))
    if client is None:
        return _error(401, "invalid_client", "The OAuth client was not found.")
    if form.get("redirect_uri") not in client["redirect_uris"]:
        return _error(400, "redirect_uri_mismatch", f"{form.get('redirect_uri')} is not registered.")
    if form.get("response_type") != "code":
        return _error(400, "unsupported_response_type", "The emulator knows response_type=code only.")
    if form.get("code_challenge") and form.get("code_challenge_method") != "S256":
        return _error(400, "invalid_request", "The emulator knows code_challenge_method=S256 only.")
    if request.method == "GET":
        hidden = "".join(
            f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
            for name, value in form.items()
        )
        page = PAGE.format(hidden=hidden, hint=html.escape(form.get("login_hint", "")))
        return Response.text(page, kind="text/html")
    return _redirect(cloud, form)


def _redirect(cloud: Cloud, form: dict[str, str]) -> Response:
    code = f"4/0{secrets.token_urlsafe(40)}"
    with cloud.store.lock:
        cloud.store["codes"][code] = {
            "client": form["client_id"],
            "redirect_uri": form["redirect_uri"],
            "email": form["email"],
            "nonce": form.get("nonce", ""),
            "challenge": form.get("code_challenge", ""),
            "scope": form.get("scope", "openid email"),
            "offline": form.get("access_type") == "offline",
            "expires": time.time() + 600,
        }
        cloud.store.save()
    answer = {"code": code, "scope": form.get("scope", "openid email")}
    if "state" in form:
        answer["state"] = form["state"]
    separator = "&" if "?" in form["redirect_uri"] else "?"
    return Response(302, b"", [("location", f"{form['redirect_uri']}{separator}{urlencode(answer)}")])


def _error(status: int, error: str, message: str) -> Response:
    text = f"<!doctype html><title>Error</title><h1>Error {status}: {error}</h1><p>{html.escape(message)}"
    return Response.text(text, status, "text/html")
