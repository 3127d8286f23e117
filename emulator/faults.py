"""Faults to inject, by method id."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from fnmatch import fnmatchcase

from emulator.errors import GoogleError
from emulator.web import ConnectionDroppedError

DROP = 0
MESSAGES = {
    403: "The caller does not have permission (injected).",
    404: "Requested entity was not found (injected).",
    409: "The operation was aborted (injected).",
    429: "Quota exceeded (injected).",
    500: "Internal error encountered (injected).",
    503: "The service is currently unavailable (injected).",
}


@dataclass
class Fault:
    """What is to happen to calls of a method."""

    method: str  # an id, or a pattern of ids
    status: int  # DROP closes the connection
    times: int = 1
    after: bool = False  # once the call has had its effect, as when an answer is lost

    def strike(self) -> None:
        """Fail.

        Raises:
            GoogleError: with the fault's status.
            ConnectionDroppedError: for DROP.
        """
        if self.status == DROP:
            raise ConnectionDroppedError
        raise GoogleError(self.status, MESSAGES[self.status], "ABORTED" if self.status == 409 else "")


class Faults:
    """The faults that still wait for their call."""

    def __init__(self) -> None:
        """Begin without any."""
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, method: str, status: int, times: int = 1, *, after: bool = False) -> None:
        """Let the next calls of a method fail.

        Raises:
            ValueError: the status is none of those that can be injected.
        """
        if status != DROP and status not in MESSAGES:
            raise ValueError(f"{status} cannot be injected; {', '.join(map(str, MESSAGES))} and 0 can")
        with self._lock:
            self._faults.append(Fault(method, status, times, after))

    def clear(self) -> None:
        """Forget those that did not strike."""
        with self._lock:
            self._faults.clear()

    def pending(self) -> list[str]:
        """Return the methods of those that did not strike yet."""
        with self._lock:
            return [fault.method for fault in self._faults if fault.times > 0]

    def take(self, method: str) -> Fault | None:
        """Return the fault for this call, if there is one, and count it."""
        with self._lock:
            for fault in self._faults:
                if fault.times > 0 and fnmatchcase(method, fault.method):
                    fault.times -= 1
                    return fault
        return None
