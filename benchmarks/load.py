"""Requests on connections that stay open, as fast as they are answered.

Standard library only: it runs in a container beside the server, `python3 load.py PORT KIND REQUESTS
CONNECTIONS`, with the Host to name in HOST and the token in TOKEN.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import threading
import time
from typing import Any

API = "/api/2.0/mlflow/"
PORT, KIND, REQUESTS, CONNECTIONS = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
HEADERS = {"Host": os.environ["HOST"], "Content-Type": "application/json"}
if os.environ.get("TOKEN"):
    HEADERS["Authorization"] = f"Bearer {os.environ['TOKEN']}"


class Client:
    """One connection."""

    def __init__(self) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=120)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask once; anything but 200 ends the run."""
        self.connection.request(method, API + path, None if body is None else json.dumps(body), HEADERS)
        answer = self.connection.getresponse()
        content = answer.read()
        if answer.status != http.client.OK:
            raise SystemExit(f"{method} {path}: {answer.status} {content[:300]!r}")
        return json.loads(content)


def request(run: str, step: int) -> tuple[str, str, Any]:
    """Return the request of this kind."""
    if KIND == "experiments/search":
        return "GET", "experiments/search?max_results=5", None
    point = {"value": float(step), "timestamp": int(time.time() * 1000), "step": step}
    if KIND == "log-metric":
        return "POST", "runs/log-metric", {"run_id": run, "key": "m", **point}
    metrics = [{"key": f"m{number}", **point} for number in range(100)]
    return "POST", "runs/log-batch", {"run_id": run, "metrics": metrics}


def work(client: Client, run: str, count: int, seconds: list[float]) -> None:
    """Make so many requests one after the other, and note how long each took."""
    for step in range(count):
        begin = time.perf_counter()
        client.ask(*request(run, step))
        seconds.append(time.perf_counter() - begin)


def measure(clients: list[Client], runs: list[str], count: int) -> tuple[float, list[float]]:
    """Have all connections make so many requests; return how long that took, and each of them."""
    seconds: list[float] = []
    threads = [
        threading.Thread(target=work, args=(client, run, count, seconds))
        for client, run in zip(clients, runs, strict=True)
    ]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begin, sorted(seconds)


def main() -> None:
    """Print what was measured, as JSON."""
    clients = [Client() for _ in range(CONNECTIONS)]
    name = f"load-{time.time_ns()}"
    experiment = clients[0].ask("POST", "experiments/create", {"name": name})["experiment_id"]
    runs = [
        clients[0].ask("POST", "runs/create", {"experiment_id": experiment})["run"]["info"]["run_id"]
        for _ in clients
    ]
    measure(clients, runs, max(2, REQUESTS // CONNECTIONS // 10))  # the first ones load what is lazy
    took, seconds = measure(clients, runs, REQUESTS // CONNECTIONS)
    if len(seconds) != REQUESTS // CONNECTIONS * CONNECTIONS:
        raise SystemExit("some connections ended early")
    clients[0].ask("POST", "experiments/delete", {"experiment_id": experiment})
    print(json.dumps({"requests_per_second": len(seconds) / took, "seconds": seconds}))


if __name__ == "__main__":
    main()
