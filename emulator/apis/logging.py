"""logging.googleapis.com: log entries."""

from __future__ import annotations

from emulator.api import Call, handles
from emulator.errors import GoogleError
from emulator.web import Json


def _project(call: Call) -> str:
    """The project that a call's body names."""
    if call.method == "logging.entries.write":
        entries = call.body.get("entries", [{}])
        name = call.body.get("logName") or entries[0].get("logName", "")
    else:
        name = (call.body.get("resourceNames") or [""])[0]
    if not name.startswith("projects/"):
        raise GoogleError(400, "The emulator knows logs of projects only.")
    return call.cloud.canonical("/".join(name.split("/")[:2]))


@handles("logging.entries.list", "logging.logEntries.list", _project)
def list_entries(call: Call) -> Json:
    """Return the entries that the filter selects."""
    entries = call.cloud.logs.read(call.body.get("filter", ""))
    if call.body.get("orderBy", "timestamp asc") == "timestamp desc":
        entries = entries[::-1]
    size = int(call.body.get("pageSize") or 50)
    start = int(call.body.get("pageToken") or 0)
    more = {"nextPageToken": str(start + size)} if len(entries) > start + size else {}
    return {"entries": entries[start : start + size], **more}


@handles("logging.entries.write", "logging.logEntries.create", _project)
def write_entries(call: Call) -> Json:
    """Add entries; what one does not say itself is as the call says."""
    for entry in call.body.get("entries", []):
        given: Json = {
            name: call.body[name] for name in ("logName", "resource", "labels") if name in call.body
        }
        call.cloud.logs.write({**given, **entry})
    return {}
