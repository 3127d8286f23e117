"""OAuth2-Proxy's whole configuration: oauth2-proxy.cfg, which never differs, and what does.

The result is a secret: it holds the OAuth client's secret and the cookie secret.
"""

from __future__ import annotations

import base64
import json
import secrets
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployment import rules

COMMON = Path(__file__).parent.parent / "oauth2-proxy.cfg"
EMAILS_FILE = "/tmp/authenticated-emails"  # noqa: S108  # written at start from the `# allow:` lines
GOOGLE = "https://accounts.google.com"
# gcloud's own OAuth client, which `gcloud auth print-identity-token` names as the audience
GCLOUD_CLIENT_ID = "32555940559.apps.googleusercontent.com"


@dataclass(frozen=True)
class Provider:
    """The identity provider, and this service as its OAuth client."""

    kind: str  # google, oidc or github
    client_id: str
    client_secret: str
    issuer_url: str = ""  # oidc only


def render(
    provider: Provider,
    *,
    url: str,
    google_project: str,
    allowed_domains: Sequence[str],
    allowed_emails: Sequence[str],
    cookie_secret: str,
) -> str:
    """Return the configuration file's text.

    Args:
        provider: who signs people in.
        url: the service's public address, without a path.
        google_project: whose traces its log lines name.
        allowed_domains: mail domains that may enter.
        allowed_emails: single addresses that may enter.
        cookie_secret: as new_cookie_secret() makes one.
    """
    values: dict[str, Any] = {
        "provider": provider.kind,
        "client_id": provider.client_id,
        "client_secret": provider.client_secret,
        "cookie_secret": cookie_secret,
        "redirect_url": f"{url}/oauth2/callback",
        "email_domains": list(allowed_domains),
    }
    if allowed_emails:
        values["authenticated_emails_file"] = EMAILS_FILE
    if provider.kind == "google":
        # Programs' tokens: those that gcloud makes for people, and those made for this service. Any
        # Google account can have the first kind: who may enter is decided by the address alone.
        values["extra_jwt_issuers"] = [f"{GOOGLE}={GCLOUD_CLIENT_ID}", f"{GOOGLE}={url}"]
    elif any(email.endswith(rules.SERVICE_ACCOUNTS) for email in allowed_emails):
        # Service accounts' tokens are Google's, whoever signs people in; made for this service alone.
        values["extra_jwt_issuers"] = [f"{GOOGLE}={url}"]
    if provider.kind == "oidc":
        values["oidc_issuer_url"] = provider.issuer_url
        # A job of GitLab's pipelines has its token made for any audience, and the proxy takes the subject
        # for the address where there is none: a branch named x@example.com would be let in. Only a job's
        # token has this claim, which is no audience of ours; people's go by `aud`.
        values["oidc_audience_claims"] = ["project_path", "aud"]
        # The proxy's own default is to skip it: an identity token must be of this very sign-in.
        values["insecure_oidc_skip_nonce"] = False
        if rules.is_entra(provider.issuer_url):
            # Microsoft's `email` is missing, or what somebody wrote into a directory; the name that one
            # signs in by ends with a domain that its owner has proved.
            values["oidc_email_claim"] = "preferred_username"
    common = COMMON.read_text(encoding="utf-8").replace("GOOGLE_PROJECT", google_project)
    lines = [common, "# From invoke.yaml"]
    lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    if allowed_emails:
        lines += ["# OAuth2-Proxy takes addresses from a file only; start.sh writes it of these lines."]
        lines += [f"# allow: {email}" for email in allowed_emails]
    text = "\n".join(lines) + "\n"
    tomllib.loads(text)  # a key given twice is fatal to the proxy: fail here
    return text


def new_cookie_secret() -> str:
    """Return 32 random bytes in base64url, the one form that the proxy always takes."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def _toml(value: str | list[str] | bool) -> str:
    """Write a string, a list of strings or a truth; JSON's forms and escapes are TOML's."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
