"""`python -m server.preflight`: what must hold before the container starts anything.

An open proxy configuration is refused here too, in the image itself: whoever edits the secret by
hand meets the same rules. The token issuers are asked because OAuth2-Proxy says nothing when their
discovery fails: /ping answers, browsers work, and every bearer token is refused until a restart.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import tomllib
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EMAILS_FILE = Path("/tmp/authenticated-emails")  # noqa: S108  # /tmp is all that is writable
DEADLINE = float(os.environ.get("ISSUER_DEADLINE", "20"))  # seconds, for all issuers together
TIMEOUT = 5.0  # seconds for one request

OPEN_SETTINGS = {
    "skip_auth_routes": "it lets requests in without a login",
    "skip_auth_regex": "it lets requests in without a login",
    "skip_auth_preflight": "it lets OPTIONS requests in without a login",
    "trusted_ips": "behind Cloud Run's front end every caller has the same addresses",
    "reverse_proxy": "callers could then choose X-Forwarded-Uri and -Host themselves",
    "whitelist_domains": "it allows redirects to other sites after the login",
    "ping_user_agent": "whoever sends that User-Agent gets an answer without a login",
    "gcp_healthchecks": "whoever sends Google's health check User-Agent gets an answer",
    "prefer_email_to_user": "a caller's own X-Forwarded-Email would then reach MLflow",
    "pass_access_token": "MLflow would receive the caller's access token",
    "pass_authorization_header": "MLflow would receive the caller's identity token",
    "ssl_insecure_skip_verify": "anybody on the network path could answer for the provider",
    "insecure_oidc_allow_unverified_email": "anybody could claim an address of yours",
    "insecure_oidc_skip_issuer_verification": "tokens of any issuer would be taken",
    "htpasswd_file": "it admits people whom the identity provider does not know",
}


def open_settings(config: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each setting that would let in more than the allow list."""
    found = [
        f"{key} = {json.dumps(config[key])} is refused: {reason}"
        for key, reason in OPEN_SETTINGS.items()
        if config.get(key) not in (None, False, [], "")
    ]
    if config.get("provider") == "oidc":
        if config.get("oidc_audience_claims", [])[:1] != ["project_path"]:
            found.append(
                "oidc_audience_claims does not begin with project_path: tokens of GitLab's pipelines would "
                "be taken for people's; `invoke secrets` writes it"
            )
        if config.get("insecure_oidc_skip_nonce") is not False:
            found.append(
                "insecure_oidc_skip_nonce is not false, and the proxy's default is true: an old login answer "
                "could be replayed; `invoke secrets` writes it"
            )
    if config.get("pass_user_headers") is False:
        found.append(
            "pass_user_headers = false is refused: a caller's own identity headers would reach MLflow"
        )
    domains = config.get("email_domains") or []
    if "*" in domains:
        found.append('email_domains holds "*", which is everybody: name your domains')
    if not domains and not config.get("authenticated_emails_file"):
        found.append("nobody may enter: email_domains and authenticated_emails_file are both empty")
    return found


def allowed_emails(text: str) -> list[str]:
    """Return the addresses that the configuration carries in its `# allow:` lines.

    OAuth2-Proxy takes single addresses from a file of their own only; they travel in its
    configuration, so that one secret says who may enter.
    """
    return re.findall(r"^# allow: (\S+@\S+)$", text, flags=re.MULTILINE)


def issuers(config: Mapping[str, Any]) -> list[str]:
    """Return the issuers whose tokens the proxy is to accept, each once."""
    found = [entry.partition("=")[0] for entry in config.get("extra_jwt_issuers", [])]
    if config.get("provider") == "oidc":
        found.append(config.get("oidc_issuer_url", ""))
    return list(dict.fromkeys(found))


def check_issuer(issuer: str, deadline: float) -> str | None:
    """Fetch the issuer's discovery document until it answers; return what is wrong at the deadline.

    Args:
        issuer: its URL.
        deadline: as time.monotonic() counts.
    """
    url = issuer.rstrip("/") + "/.well-known/openid-configuration"
    while True:
        try:
            left = max(0.1, min(TIMEOUT, deadline - time.monotonic()))
            with urllib.request.urlopen(url, timeout=left) as answer:  # noqa: S310
                document = json.load(answer)
            if document.get("issuer") == issuer:
                return None
            # A wrong answer stays wrong: no second try.
            return f"{url} names another issuer, {document.get('issuer')!r}"
        except (OSError, ValueError, AttributeError) as error:
            problem = f"{url} did not answer: {error}"
        if time.monotonic() >= deadline:
            return problem
        time.sleep(0.2)


def main() -> int:
    """Check, write the file of addresses, and return the exit code."""
    path = Path(os.environ["OAUTH_PROXY_CONFIG"])
    try:
        text = path.read_text(encoding="utf-8")
        config = tomllib.loads(text)
    except OSError as error:
        return _fail([f"the proxy's configuration cannot be read: {error}"])
    except ValueError as error:
        return _fail([f"the proxy's configuration {path} is not TOML: {error}"])
    problems = open_settings(config)
    if not os.environ["BACKEND_STORE_URI"].startswith("postgresql"):
        problems.append("BACKEND_STORE_URI must begin with postgresql+psycopg2://")
    if not os.environ["DEFAULT_ARTIFACT_ROOT"].startswith("gs://"):
        problems.append(
            f"DEFAULT_ARTIFACT_ROOT is {os.environ['DEFAULT_ARTIFACT_ROOT']!r}: give a gs:// address"
        )
    if problems:
        return _fail(problems)
    if config.get("authenticated_emails_file") == str(EMAILS_FILE):
        EMAILS_FILE.write_text("".join(f"{email}\n" for email in allowed_emails(text)))
    deadline = time.monotonic() + DEADLINE
    return _fail([p for p in (check_issuer(i, deadline) for i in issuers(config)) if p])


def _fail(problems: list[str]) -> int:
    for problem in problems:
        print(f"preflight: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
