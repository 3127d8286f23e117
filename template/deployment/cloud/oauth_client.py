"""The OAuth client that the service is at the identity provider, and the proxy's configuration of it."""

from __future__ import annotations

import getpass
import json
import tomllib
from pathlib import Path

from deployment import proxy
from deployment.errors import DeploymentError
from deployment.settings import Settings


def read_file(path: str) -> tuple[str, str]:
    """Return id and secret of the client file that Google's console offers for download.

    Raises:
        DeploymentError: it is no such file.
    """
    try:
        client = json.loads(Path(path).read_text(encoding="utf-8"))["web"]
        return client["client_id"], client["client_secret"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeploymentError(
            f"{path} is no OAuth client of type web application as Google's console gives it: {error!r}"
        ) from None


def ask() -> tuple[str, str]:
    """Ask for id and secret on the terminal.

    Raises:
        DeploymentError: nobody is there, or an answer is empty.
    """
    try:
        client_id = input("OAuth client id: ").strip()
        client_secret = getpass.getpass("OAuth client secret (not shown): ").strip()
    except EOFError:
        raise DeploymentError(
            "the OAuth client is not known: give its file with --client-file, or run this in a terminal"
        ) from None
    if not client_id or not client_secret:
        raise DeploymentError("the OAuth client's id or secret is empty")
    return client_id, client_secret


def ask_database() -> str:
    """Ask for the connection URI of a Postgres of one's own.

    Raises:
        DeploymentError: nobody is there, or it is no such URI.
    """
    try:
        uri = getpass.getpass("postgresql+psycopg2://USER:PASSWORD@HOST/DATABASE (not shown): ").strip()
    except EOFError:
        uri = ""
    if not uri.startswith("postgresql+psycopg2://"):
        raise DeploymentError("the database's URI must begin with postgresql+psycopg2://")
    return uri


def configuration(
    settings: Settings, url: str, client: tuple[str, str] | None, current: str | None, *, rotate: bool
) -> str:
    """Return the proxy's configuration: of `client`, or of the one in the current configuration.

    Args:
        settings: who may enter, and the provider.
        url: the service's address.
        client: the OAuth client's id and secret, when given.
        current: the configuration that is in use, if any; its cookie secret is kept.
        rotate: draw a new cookie secret, which signs everybody out.

    Raises:
        DeploymentError: neither gives a client.
    """
    known = tomllib.loads(current) if current else {}
    if client is None:
        if "client_id" not in known:
            raise DeploymentError("no OAuth client is known: give one")
        client = known["client_id"], known["client_secret"]
    cookie_secret = known.get("cookie_secret")
    if rotate or not cookie_secret:
        cookie_secret = proxy.new_cookie_secret()
    return proxy.render(
        proxy.Provider(settings.identity_provider, *client, settings.oidc_issuer_url),
        url=url,
        google_project=settings.google_project,
        allowed_domains=settings.allowed_domains,
        allowed_emails=settings.allowed_emails,
        cookie_secret=cookie_secret,
    )
