"""A request is signed in, for one server only, and a refusal becomes a sentence."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from mlflow_google_auth.sources import NotSignedInError
from mlflow_google_auth.tokens import Token, Tokens

LOCAL = ("localhost", "127.0.0.1", "::1")
PORTS = {"https": 443, "http": 80}


def origin(url: str) -> str:
    """Return a URL's scheme, host and, where it is not the scheme's own, port; "" when it has no host."""
    parts = urlsplit(url)
    if not parts.hostname:
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = f":{parts.port}" if parts.port and parts.port != PORTS.get(parts.scheme) else ""
    return f"{parts.scheme}://{host}{port}"


class GoogleAuth(AuthBase):
    """Puts the token on requests to one server.

    Args:
        allowed: that server's origin; "" for none.
        tokens: where tokens come from.
    """

    def __init__(self, allowed: str, tokens: Tokens) -> None:
        self._allowed = allowed
        self._tokens = tokens

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign a request in.

        Raises:
            NotSignedInError: there is no token, or it is not for this server.
        """
        to = origin(request.url or "")
        if to != self._allowed:
            raise NotSignedInError(
                f"the token is not sent to {to}: MLFLOW_TRACKING_URI is {self._allowed or 'no server'}, and "
                "it goes there only"
            )
        if not to.startswith("https://") and urlsplit(to).hostname not in LOCAL:
            raise NotSignedInError(f"the token is not sent to {to} in clear: MLFLOW_TRACKING_URI needs https")
        # MLFLOW_TRACKING_TOKEN or a password: MLflow's own providers leave it as it is, too.
        token = None if "Authorization" in request.headers else self._tokens.get()
        if token:
            request.headers["Authorization"] = f"Bearer {token.value}"

        def check(response: requests.Response, *_: Any, **__: Any) -> None:
            self._check(response, token)

        request.hooks["response"].append(check)
        return request

    def _check(self, response: requests.Response, token: Token | None) -> None:
        """Say why a request was refused at the door.

        Raises:
            NotSignedInError: it was.
        """
        if response.status_code not in (401, 403) or origin(response.url) != self._allowed:
            return
        if response.status_code == 403 and _of_mlflow(response):
            return
        if token is None:
            raise NotSignedInError(
                f"{self._allowed} answers {response.status_code} to what MLFLOW_TRACKING_TOKEN (or "
                "_USERNAME and _PASSWORD) says: unset it, and MLFLOW_TRACKING_AUTH=google signs in"
            )
        self._tokens.forget(token)
        if response.status_code == 403:
            raise NotSignedInError(
                f"{self._allowed} knows you and does not let you in (403): you are {token}. Somebody in "
                f"charge of it can run `invoke access --add {token.email or 'ADDRESS'}`"
            )
        raise NotSignedInError(
            f"{self._allowed} does not take the token (401) of {token}: is MLFLOW_TRACKING_URI what "
            "`invoke url` prints, and this machine's clock right?"
        )


def _of_mlflow(response: requests.Response) -> bool:
    """Say whether it is MLflow itself that refuses."""
    return "error_code" in response.text or "Invalid Host" in response.text
