"""MLflow's client signs in with Google identity tokens: MLFLOW_TRACKING_AUTH=google."""

from __future__ import annotations

import os
import threading

from mlflow_google_auth.auth import GoogleAuth, origin
from mlflow_google_auth.tokens import Tokens

# Act as this service account; whoever is signed in must be allowed to.
ACCOUNT = "MLFLOW_TRACKING_IMPERSONATE_SERVICE_ACCOUNT"
# Whom the token is for, where the service takes tokens for another address than MLFLOW_TRACKING_URI's.
AUDIENCE = "MLFLOW_TRACKING_AUDIENCE"


class GoogleAuthProvider:
    """What MLflow calls a RequestAuthProvider: it keeps one, and asks it before each request."""

    def __init__(self) -> None:
        self._tokens: dict[tuple[str, str], Tokens] = {}
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def get_name(self) -> str:
        """Return the value of MLFLOW_TRACKING_AUTH that chooses this."""
        return "google"

    def get_auth(self) -> GoogleAuth:
        """Return what signs a request to the tracking server in."""
        import mlflow  # which loads this

        allowed = origin(mlflow.get_tracking_uri())
        key = os.environ.get(AUDIENCE) or allowed, os.environ.get(ACCOUNT, "")
        with self._lock:
            if key not in self._tokens:
                self._tokens[key] = Tokens(*key)
            return GoogleAuth(allowed, self._tokens[key])

    def _after_fork(self) -> None:
        """In a forked process: another thread may have held the locks, and is not there."""
        self._lock = threading.Lock()
        for tokens in self._tokens.values():
            tokens.after_fork()
