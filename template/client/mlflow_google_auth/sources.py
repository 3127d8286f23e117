"""Where identity tokens come from: the identity that a program has where it runs.

Credentials' file (GOOGLE_APPLICATION_CREDENTIALS, or gcloud's own of application default login), else the
metadata server, else gcloud's login: Google's own order, https://google.aip.dev/auth/4110.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from google.auth import compute_engine, exceptions, impersonated_credentials
from google.auth.transport.requests import Request
from google.oauth2 import credentials, service_account
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

# gcloud's own OAuth client: the audience of its tokens for people
GCLOUD_CLIENT_ID = "32555940559.apps.googleusercontent.com"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
HINT = (
    "on a machine of your own run `gcloud auth login`, elsewhere set GOOGLE_APPLICATION_CREDENTIALS to a "
    "service account's credentials"
)
SECONDS = 60  # for gcloud, which takes one or two


class NotSignedInError(Exception):
    """There is no token, or the service does not take it. Says what was tried and what to do."""


@dataclass(frozen=True)
class Source:
    """A source of identity tokens, by its name in messages."""

    name: str
    fetch: Callable[[], str]


def find(audience: str, account: str = "") -> Source:
    """Return the source of this process's identity.

    Args:
        audience: whom tokens are for; a person's are for gcloud, always.
        account: a service account to be impersonated; "" for none.

    Raises:
        NotSignedInError: there is none.
        ValueError, google.auth.exceptions.GoogleAuthError, OSError: the credentials' file is broken.
    """
    tried = []
    path = credentials_file()
    if path is None:
        tried.append("no credentials' file")
    else:
        info = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(info, dict):
            raise NotSignedInError(f"{path} holds no credentials: {HINT}")
        if account or not _person_of_another_client(info):
            return _of_file(path, info, audience, account)
        tried.append(f"{path} is a person's and gives tokens for another client only")
    host = metadata_host()
    if _is_metadata_server(host):
        return _of_metadata(audience, account)
    tried.append(f"no metadata server at {host}")
    gcloud = shutil.which("gcloud")
    if gcloud:
        return _of_gcloud(gcloud, audience, account)
    tried.append("no gcloud on PATH")
    raise NotSignedInError(f"no Google identity here ({', '.join(tried)}): {HINT}")


def credentials_file() -> Path | None:
    """Return the file of application default credentials, or None."""
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if named:
        return Path(named)
    home = Path(os.environ["APPDATA"]) if os.name == "nt" else Path.home() / ".config"
    folder = Path(os.environ.get("CLOUDSDK_CONFIG") or home / "gcloud")
    path = folder / "application_default_credentials.json"
    return path if path.exists() else None


def metadata_host() -> str:
    """Return where the metadata server would be, by the variables that google-auth reads."""
    named = os.environ.get("GCE_METADATA_HOST") or os.environ.get("GCE_METADATA_ROOT")
    return named or "metadata.google.internal"


def _of_file(path: Path, info: dict[str, Any], audience: str, account: str) -> Source:
    kind = info.get("type")
    name = f"{path} ({kind})"
    if account:
        return _impersonation(_base(info), account, audience, f"{name} as {account}")
    if kind == "service_account":
        key = service_account.IDTokenCredentials.from_service_account_info(info, target_audience=audience)
        return _of_credentials(name, key)
    if kind == "impersonated_service_account":
        target = impersonated_credentials.Credentials.from_impersonated_service_account_info(info)
        return _of_credentials(name, _identity(target, audience))
    if kind == "external_account":
        # The federated identity itself asks for the account's token: the account need not be let to
        # impersonate itself.
        url = info.pop("service_account_impersonation_url", None) or ""
        found = re.search(r"/serviceAccounts/([^/:]+):generateAccessToken$", url)
        if not found:
            raise NotSignedInError(
                f"{path} is of a workload identity pool and names no service account; a pool's principals "
                "have no identity tokens: set MLFLOW_TRACKING_IMPERSONATE_SERVICE_ACCOUNT"
            )
        return _impersonation(_base(info), found[1], audience, f"{name} as {found[1]}")
    person = _base(info)

    def fetch() -> str:
        with requests.Session() as session:
            person.refresh(Request(session))
        return str(person.id_token or "")

    return Source(name, fetch)


def _base(info: dict[str, Any]) -> Any:
    """Return credentials for Google's APIs, of a file's content.

    Raises:
        NotSignedInError: of a type that is not known.
        ValueError, google.auth.exceptions.GoogleAuthError: it is broken.
    """
    kind = info.get("type")
    if kind == "authorized_user":
        return credentials.Credentials.from_authorized_user_info(info)
    if kind == "service_account":
        return service_account.Credentials.from_service_account_info(info, scopes=[SCOPE])
    if kind == "impersonated_service_account":
        return impersonated_credentials.Credentials.from_impersonated_service_account_info(
            info, scopes=[SCOPE]
        )
    if kind == "external_account":
        from google.auth import aws, identity_pool, pluggable

        # As google.auth.default() chooses, which looks the project up besides.
        if info.get("subject_token_type") == "urn:ietf:params:aws:token-type:aws4_request":
            return aws.Credentials.from_info(info, scopes=[SCOPE])
        if "executable" in info.get("credential_source", {}):
            return pluggable.Credentials.from_info(info, scopes=[SCOPE])
        return identity_pool.Credentials.from_info(info, scopes=[SCOPE])
    raise NotSignedInError(f"credentials of the type {kind} have no identity tokens: {HINT}")


def _of_metadata(audience: str, account: str) -> Source:
    if account:
        name = f"the metadata server as {account}"
        return _impersonation(compute_engine.Credentials(), account, audience, name)

    def fetch() -> str:
        with _direct() as session:
            request = Request(session)
            identity = compute_engine.IDTokenCredentials(
                request, audience, use_metadata_identity_endpoint=True
            )
            identity.refresh(request)
        return str(identity.token)

    return Source("the metadata server", fetch)


def _of_gcloud(gcloud: str, audience: str, account: str) -> Source:
    command = [gcloud, "auth", "print-identity-token", "--quiet"]
    if account:
        command += [f"--impersonate-service-account={account}", f"--audiences={audience}", "--include-email"]

    def fetch() -> str:
        done = subprocess.run(
            command,
            # It would keep a log of what it prints.
            env={**os.environ, "CLOUDSDK_CORE_DISABLE_FILE_LOGGING": "true"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        if done.returncode:
            words = " ".join(done.stderr.split())
            raise NotSignedInError(f"{words or 'it failed'} (run `gcloud auth login`)")
        return done.stdout.strip()

    return Source(f"gcloud as {account}" if account else "gcloud's login", fetch)


def _impersonation(base: Any, account: str, audience: str, name: str) -> Source:
    target = impersonated_credentials.Credentials(base, target_principal=account, target_scopes=[SCOPE])
    return _of_credentials(name, _identity(target, audience))


def _identity(target: impersonated_credentials.Credentials, audience: str) -> Any:
    # Without the address the service would not know who it is.
    return impersonated_credentials.IDTokenCredentials(target, audience, include_email=True)


def _of_credentials(name: str, identity: Any) -> Source:
    def fetch() -> str:
        with requests.Session() as session:
            identity.refresh(Request(session))
        return str(identity.token)

    return Source(name, fetch)


def _person_of_another_client(info: dict[str, Any]) -> bool:
    """Say whether tokens would name a client that is not gcloud, which no service takes."""
    return info.get("type") == "authorized_user" and info.get("client_id") != GCLOUD_CLIENT_ID


def _is_metadata_server(host: str) -> bool:
    """Say whether this is a machine of Google's: its name is known there only, which is said at once."""
    name, _, port = host.partition(":")
    try:
        socket.getaddrinfo(name, port or 80)
        with _direct() as session:
            # A new pod's server takes a while to answer.
            session.mount("http://", HTTPAdapter(max_retries=Retry(3, backoff_factor=0.5)))
            answer = session.get(f"http://{host}/", headers={"Metadata-Flavor": "Google"}, timeout=3)
    except OSError:
        return False
    return answer.headers.get("Metadata-Flavor") == "Google"


def _direct() -> requests.Session:
    """Return a session that goes by no proxy."""
    session = requests.Session()
    session.trust_env = False
    return session


__all__ = ["GCLOUD_CLIENT_ID", "NotSignedInError", "Source", "credentials_file", "exceptions", "find"]
