"""What is attacked: the service deployed to the emulated Google Cloud, or with ABUSE=local the local stack.

Their addresses and providers differ, so the attacks are made of these names.
"""

from __future__ import annotations

import os

from emulator import identity
from tests.conftest import free_ports

LOCAL = os.environ.get("ABUSE") == "local"
PORT = free_ports() if LOCAL else 4180  # where the proxy listens in its container
NAME = "localhost" if LOCAL else "mlflow-123456789012.europe-west1.run.app"
HOST = f"{NAME}:{PORT}" if LOCAL else NAME
SERVICE_URL = f"{'http' if LOCAL else 'https'}://{HOST}"
ISSUER = f"http://localhost:{PORT + 1}" if LOCAL else identity.ISSUER
SIGN_IN = f"{ISSUER}/oauth2/authorize" if LOCAL else f"{ISSUER}/o/oauth2/"
# Whom tokens are for: of programs, and of people.
AUDIENCE = "mlflow-local" if LOCAL else SERVICE_URL
PEOPLES_AUDIENCE = AUDIENCE if LOCAL else identity.GCLOUD_CLIENT_ID
