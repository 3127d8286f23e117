"""A revision's instances: started on demand up to the maximum, stopped when idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from emulator.errors import GoogleError
from emulator.run.instance import Instance
from emulator.run.workload import Workload

# https://cloud.google.com/run/docs/about-instance-autoscaling: a request waits up to 10 s for an instance
QUEUE_SECONDS = 10.0


class Pool:
    """The instances of one revision."""

    def __init__(self, workload: Workload, create: Callable[[], Instance]) -> None:
        """Begin empty: scaled to zero."""
        self._workload, self._create = workload, create
        self._changed = threading.Condition()
        self.instances: list[Instance] = []
        self._starting = 0
        self._pending = 0

    def acquire(self) -> Instance:
        """Return an instance with a request counted in; start one when there is none with room.

        Raises:
            GoogleError: 429 when all are busy for too long.
            StartError: the new one did not start.
        """
        with self._changed:
            self._pending += 1
        try:
            return self._free_instance() or self._start(serving=True)
        finally:
            with self._changed:
                self._pending -= 1

    def _free_instance(self) -> Instance | None:
        """Wait for an instance with room; None when one is to be started instead, which is counted."""
        deadline = time.monotonic() + QUEUE_SECONDS
        with self._changed:
            while True:
                for instance in self.instances:
                    if instance.in_flight < self._workload.concurrency and not instance.ended.is_set():
                        instance.begin()
                        return instance
                room = len(self.instances) + self._starting < self._workload.maximum
                if room and self._starting * self._workload.concurrency < self._pending:
                    self._starting += 1
                    return None
                left = deadline - time.monotonic()
                if left <= 0 and not self._starting:
                    raise GoogleError(429, "Rate exceeded.")
                self._changed.wait(left if left > 0 else 1)

    def start(self) -> None:
        """Start an instance.

        Raises:
            StartError: it does not start.
        """
        with self._changed:
            self._starting += 1
        self._start(serving=False)

    def _start(self, *, serving: bool) -> Instance:
        instance = self._create()
        try:
            instance.start()
        except BaseException:
            with self._changed:
                self._starting -= 1
                self._changed.notify_all()
            raise
        with self._changed:
            self._starting -= 1
            self.instances.append(instance)
            if serving:
                instance.begin()
            self._changed.notify_all()
        return instance

    def release(self, instance: Instance) -> None:
        """Count a request out."""
        with self._changed:
            instance.end()
            self._changed.notify_all()

    def remove(self, instance: Instance) -> None:
        """Forget an instance that has ended."""
        with self._changed:
            if instance in self.instances:
                self.instances.remove(instance)
            self._changed.notify_all()

    def scale_down(self, idle_seconds: float, keep: int) -> None:
        """Stop the instances without a request for so long, but for so many."""
        with self._changed:
            now = time.monotonic()
            idle = [i for i in self.instances if not i.in_flight and now - i.idle_since >= idle_seconds]
            stopped = idle[: max(0, len(self.instances) - keep)]
            for instance in stopped:
                instance.stopping = True
                self.instances.remove(instance)
        threads = [threading.Thread(target=instance.stop, daemon=True) for instance in stopped]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
