"""The service's log, read from Cloud Logging.

`gcloud run services logs read` is not used: that of 528 fails on entries that are JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from deployment.cloud.gcloud import Gcloud
from deployment.cloud.resources import Resources

LAST = 15  # lines of what failed, shown with the error
STEP = 2  # seconds between two looks for new entries
Json = dict[str, Any]


def argv(where: str, *, limit: int) -> list[str]:
    """Return the command that shows the newest entries that a query selects, newest first."""
    return ["logging", "read", where, f"--limit={limit}", "--order=desc", "--format=json"]


def query(resources: Resources, severity: str) -> str:
    """Return the query that selects the service's entries of a severity and above."""
    settings = resources.settings
    found = (
        'resource.type="cloud_run_revision"'
        f' AND resource.labels.service_name="{settings.service}"'
        f' AND resource.labels.location="{settings.region}"'
    )
    return f"{found} AND severity>={severity}" if severity else found


def revision_query(revision: str) -> str:
    """Return the query of a revision's entries: its containers', and Cloud Run's about them."""
    return f'resource.type="cloud_run_revision" AND resource.labels.revision_name="{revision}"'


def execution_query(execution: str) -> str:
    """Return the query of the entries of a job's execution."""
    return f'resource.type="cloud_run_job" AND labels."run.googleapis.com/execution_name"="{execution}"'


def last(entries: list[Json]) -> list[str]:
    """Return what a container said last and all that Cloud Run said about it, oldest first.

    Args:
        entries: newest first.
    """
    found: list[str] = []
    for entry in entries:
        own = entry["logName"].endswith("%2Fvarlog%2Fsystem")
        if "httpRequest" not in entry and (own or len(found) < LAST):
            found += [line for line in reversed(words(entry)) if line.strip()]
    return found[::-1]


def read(gcloud: Gcloud, resources: Resources, *, limit: int, severity: str, follow: bool) -> Iterator[str]:
    """Yield the newest entries' lines, oldest first; then, where one follows, the new ones as they come.

    Raises:
        DeploymentError: gcloud refused.
    """
    where, last, seen = query(resources, severity), "", set[str]()
    while True:
        since = f'{where} AND timestamp>="{last}"' if last else where
        entries = json.loads(gcloud.run(argv(since, limit=1000 if last else limit)) or "[]")
        for entry in reversed(entries):
            if entry["insertId"] not in seen:
                yield from (f"{prefix(entry)} {line}" for line in words(entry))
        if not follow:
            return
        last = entries[0]["timestamp"] if entries else last
        seen |= {entry["insertId"] for entry in entries}
        time.sleep(STEP)


def prefix(entry: Json) -> str:
    """Return an entry's time, to the second in UTC, and its severity."""
    return f"{entry['timestamp'][:19]}Z {entry.get('severity', 'DEFAULT'):<8}"


def words(entry: Json) -> list[str]:
    """Return an entry's lines: its text, its message, its request, or all of it."""
    payload, request = entry.get("jsonPayload", {}), entry.get("httpRequest", {})
    text = entry.get("textPayload") or payload.get("message")
    if not text and request:
        shown = [request.get(key) for key in ("requestMethod", "status", "latency", "requestUrl")]
        shown.append(payload.get("user"))
        text = " ".join(str(value) for value in shown if value is not None)
    return str(text or json.dumps(payload)).splitlines()
