"""A new password for the database, while the service runs and nobody waits."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from deployment.cloud import database, secret
from deployment.cloud.resources import Resources
from deployment.cloud.secret import Secrets
from deployment.cloud.service import Service
from deployment.errors import DeploymentError
from deployment.smoke import Step

Say = Callable[[str], None]
Json = dict[str, Any]


def rotate(service: Service, store: Secrets, drain: int, say: Say) -> list[Step]:
    """Switch to the other login, bring up a revision that uses it, retire the one before.

    Interrupted at any point and run again, it completes: a secret that is newer than what serves is
    a switch that was begun.

    Args:
        service: must be deployed.
        store: the service's secrets.
        drain: seconds to wait before the old password is retired, for requests still on the old revision.
        say: shows a line.

    Raises:
        DeploymentError: gcloud refused, or the new revision does not serve; the old one does then.
    """
    found = service.needed()
    revisions = {entry["metadata"]["name"]: entry for entry in service.revisions()}
    serving = revisions.get(found.serving)
    if serving is None:
        raise DeploymentError("no revision serves: run `invoke deploy` first")
    if _begun(service, serving, store.resources):
        say("the secret is newer than what serves: going on where it was left")
    else:
        database.switch(service.gcloud, store, say)
    steps = service.deploy(serving["spec"]["containers"][0]["image"])
    say(f"waiting {drain} s for requests on the old revision")
    time.sleep(drain)
    database.retire(service.gcloud, store, say)
    return steps


def _begun(service: Service, serving: Json, resources: Resources) -> bool:
    """Say whether the secret's newest version was made after what serves."""
    version = json.loads(service.gcloud.run(secret.newest_argv(resources.database_secret)))
    return datetime.fromisoformat(version["createTime"]) > datetime.fromisoformat(
        serving["metadata"]["creationTimestamp"]
    )
