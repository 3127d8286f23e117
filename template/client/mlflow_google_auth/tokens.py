"""One identity token for all threads of a process, renewed before it ends."""

from __future__ import annotations

import subprocess
import threading
import time
from datetime import datetime, timezone

from google.auth import exceptions, jwt

from mlflow_google_auth.sources import NotSignedInError, Source, find

# Seconds before its end that a token is renewed: MLflow repeats a request for minutes with the same token.
MARGIN = 300
FAILURES = (
    exceptions.GoogleAuthError,
    subprocess.SubprocessError,
    OSError,
    ValueError,
    LookupError,  # google-auth, at an answer without what it looks for
    NotSignedInError,
)


class Token:
    """An identity token, and what it says. Its text is in `value` alone.

    Raises:
        ValueError: it is none.
    """

    def __init__(self, value: str, source: str) -> None:
        claims = jwt.decode(value, verify=False)  # the service verifies it
        self.value = value
        self.source = source
        self.email = str(claims.get("email", ""))
        self.audience = str(claims["aud"])
        self.expires = float(claims["exp"])
        life = self.expires - float(claims.get("iat", time.time()))
        self.margin = min(MARGIN, 0.75 * life)

    def __str__(self) -> str:
        until = datetime.fromtimestamp(self.expires, timezone.utc)
        whose = self.email or "an account without an address"
        return f"{whose}, by {self.source}, for {self.audience}, until {until:%H:%M:%S} UTC"


class Tokens:
    """The tokens of one identity for one audience.

    Args:
        audience: whom they are for.
        account: a service account to be impersonated; "" for none.
    """

    def __init__(self, audience: str, account: str = "") -> None:
        self.audience = audience
        self.account = account
        self._source: Source | None = None
        self._token: Token | None = None
        self._renew = 0.0
        self._lock = threading.Lock()

    def get(self) -> Token:
        """Return a token that is good for a while; the others wait while one thread renews it.

        Raises:
            NotSignedInError: there is none to be had, and the last one has ended.
        """
        with self._lock:
            now = time.time()
            if self._token is None or now >= self._renew:
                self._token = self._renewed(now)
            return self._token

    def forget(self, token: Token) -> None:
        """Fetch another one next time: the service refused this one."""
        with self._lock:
            if self._token is token:
                self._token = self._source = None

    def after_fork(self) -> None:
        """In a forked process: keep the token, and nothing that another thread may have been using."""
        self._lock = threading.Lock()
        self._source = None

    def _renewed(self, now: float) -> Token:
        last = self._token
        try:
            self._source = self._source or find(self.audience, self.account)
            token = Token(self._source.fetch(), self._source.name)
        except FAILURES as error:
            name = f"{self._source.name} gives no identity token: " if self._source else ""
            self._source = None
            if last is None or now >= last.expires:
                raise NotSignedInError(f"{name}{reason(error)}") from None
            token = last
        # Where that failed, or brought the same token again as metadata servers do, not at every request.
        wait = max(token.expires - token.margin, now + token.margin / 10)
        self._renew = min(wait, token.expires)
        return token


def reason(error: Exception) -> str:
    """Return an error's own words: google-auth adds the whole answer as a second argument."""
    google = isinstance(error, exceptions.GoogleAuthError) and error.args
    return str(error.args[0] if google else error)[:500]
