"""The emulated cloud's state: collections of JSON, kept in one file."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emulator.web import Json


def now() -> str:
    """Return the time as Google's APIs write it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Store:
    """Collections of resources by name. Hold `lock` while reading and changing; `changed` wakes waiters."""

    def __init__(self, file: Path) -> None:
        """Read the file, if it is there."""
        self.file = file
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self._collections: dict[str, Json] = json.loads(file.read_text()) if file.exists() else {}

    def __getitem__(self, collection: str) -> Json:
        """Return a collection, resource by name."""
        return self._collections.setdefault(collection, {})

    def next(self, counter: str) -> int:
        """Count up and return the number."""
        counters = self["counters"]
        counters[counter] = int(counters.get(counter, 0)) + 1
        return int(counters[counter])

    def save(self) -> None:
        """Write the file, readable by its owner only: secrets are in it."""
        with self.lock:
            scratch = self.file.with_suffix(".new")
            with open(scratch, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:  # noqa: PTH123
                json.dump(self._collections, file)
            scratch.replace(self.file)
            self.changed.notify_all()

    def wait_for(self, predicate: Callable[[], Any], timeout: float) -> bool:
        """Wait until something is so; False when it is not in time."""
        with self.changed:
            return bool(self.changed.wait_for(predicate, timeout))
