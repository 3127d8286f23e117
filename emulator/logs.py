"""Cloud Logging's entries: kept in a file of their own, read with a part of its query language."""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from pathlib import Path
from typing import Any

from emulator.errors import NotModelledError
from emulator.store import now
from emulator.web import Json

KEPT = 20_000
# https://cloud.google.com/logging/docs/reference/v2/rest/v2/LogEntry#LogSeverity
SEVERITIES = ("DEFAULT", "DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL", "ALERT", "EMERGENCY")
COMPARISON = re.compile(
    r"""\s*(?:AND\s+)?(?P<field>[A-Za-z_][\w.@/"-]*?)\s*(?P<operator>>=|<=|!=|=~|=|>|<|:)\s*"""
    r"""(?P<value>"(?:[^"\\]|\\.)*"|[^\s()"]+)\s*"""
)


class Logs:
    """The newest entries, oldest first."""

    def __init__(self, file: Path) -> None:
        """Read the file, if it is there."""
        self._file = file
        self._lock = threading.Lock()
        lines = file.read_text().splitlines() if file.exists() else []
        self._entries: deque[Json] = deque(map(json.loads, lines), maxlen=KEPT)
        self._number = len(lines)

    def write(self, entry: Json) -> None:
        """Add an entry."""
        with self._lock:
            self._number += 1
            stamp = now()
            defaults = {"insertId": f"{self._number:012x}", "timestamp": stamp, "receiveTimestamp": stamp}
            entry = {**defaults, "severity": "DEFAULT", **entry}
            self._entries.append(entry)
            with self._file.open("a") as file:
                file.write(json.dumps(entry) + "\n")

    def read(self, query: str) -> list[Json]:
        """Return the entries that a query selects, oldest first.

        Raises:
            NotModelledError: the query has more than comparisons joined by AND.
        """
        comparisons = _parse(query)
        with self._lock:
            entries = list(self._entries)
        return [e for e in entries if all(_holds(e, *comparison) for comparison in comparisons)]


def _parse(query: str) -> list[tuple[str, str, str]]:
    text = query.strip()
    while text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        text = text[1:-1].strip()
    found, position = [], 0
    while position < len(text):
        match = COMPARISON.match(text, position)
        if not match or match["field"] in ("OR", "NOT"):
            raise NotModelledError(f"this in a logging query: {text[position:]!r}")
        value = match["value"]
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        found.append((match["field"], match["operator"], value))
        position = match.end()
    return found


def _holds(entry: Json, field: str, operator: str, value: str) -> bool:
    actual = _field(entry, field)
    if field == "severity":
        return _ordered(_rank(str(actual)), operator, _rank(value))
    if operator == ":":
        return value.lower() in str(actual or "").lower()
    if operator == "=~":
        return bool(re.search(value, str(actual or "")))
    return _ordered(str("" if actual is None else actual), operator, value)


def _ordered(left: Any, operator: str, right: Any) -> bool:
    return {
        "=": left == right,
        "!=": left != right,
        ">": left > right,
        "<": left < right,
        ">=": left >= right,
        "<=": left <= right,
    }[operator] or (operator == ":" and left == right)


def _rank(severity: str) -> int:
    return SEVERITIES.index(severity.upper()) if severity.upper() in SEVERITIES else 0


def _field(entry: Json, path: str) -> Any:
    value: Any = entry
    for name in re.findall(r'"[^"]+"|[^.]+', path):
        value = value.get(name.strip('"')) if isinstance(value, dict) else None
    return value
