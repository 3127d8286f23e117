"""What is to be reached, and how it is read from the results."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Results = dict[str, Any]
FIRST_PAGE = "seconds until a browser shows the experiments, cold, of the recipe's"
THROUGH_PROXY = "requests a second through the proxy, of the same server's asked directly"


@dataclass(frozen=True)
class Figure:
    """A median with what it was made of."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The value in the middle."""
        return statistics.median(self.values)

    def text(self, digits: int, unit: str = "") -> str:
        """Return median, and the smallest and largest where there are several."""
        low, high = min(self.values), max(self.values)
        spread = f" ({low:.{digits}f} to {high:.{digits}f})" if len(self.values) > 1 else ""
        return f"{self.median:.{digits}f}{unit}{spread}"


def figure(results: Results, measure: str, subject: str, *path: str) -> Figure:
    """Return a figure of all rounds.

    Args:
        results: of a run.
        measure: start, click and so on.
        subject: whose.
        path: the keys that lead to the number.
    """
    values = []
    for found in results[measure][subject]:
        for key in path:
            found = found[key]
        values.append(float(found))
    return Figure(tuple(values))


@dataclass(frozen=True)
class Goal:
    """A row of the table: a ratio or a number of this run, and what it is to be."""

    what: str
    goal: str
    limit: float
    value: Callable[[Results], float]
    shown: Callable[[Results], str]
    needs: str
    at_least: bool = False

    def met(self, results: Results) -> bool:
        """Say whether the run reaches it."""
        value = self.value(results)
        return value >= self.limit if self.at_least else value <= self.limit


def _cpu(results: Results, subject: str) -> Figure:
    return figure(results, "start", subject, "cpu_seconds")


def _ratio(results: Results, measure: str, key: str, over: str) -> float:
    return figure(results, measure, "service", key).median / figure(results, measure, over, key).median


def _pair(results: Results, measure: str, key: str, digits: int, unit: str, over: str = "recipe") -> str:
    mine, other = (figure(results, measure, name, key) for name in ("service", over))
    return f"{mine.text(digits, unit)}; {over} {other.text(digits, unit)}: 1/{other.median / mine.median:.1f}"


def _load(results: Results, subject: str, way: str) -> float:
    """Return the geometric mean of the kinds' median throughputs."""
    kinds = results["load"][subject][0]
    return statistics.geometric_mean(
        figure(results, "load", subject, kind, way, "requests_per_second").median for kind in kinds
    )


def _rates(results: Results, *columns: tuple[str, str]) -> str:
    rows = []
    for kind in results["load"]["service"][0]:
        numbers = [
            figure(results, "load", subject, kind, way, "requests_per_second").median
            for subject, way in columns
        ]
        rows.append(f"{kind} {' : '.join(f'{number:.0f}' for number in numbers)}")
    return ", ".join(rows)


ONE = "recipe, one worker"
GOALS = (
    Goal(
        "CPU seconds from container start to the first API answer, of the recipe's",
        "≤ 1/15",
        1 / 15,
        lambda r: _ratio(r, "start", "cpu_seconds", "recipe"),
        lambda r: _pair(r, "start", "cpu_seconds", 2, " s"),
        "start",
    ),
    Goal(
        "the same, of a bare FastAPI + SQLAlchemy + psycopg2 server's",
        "≤ 3",
        3,
        lambda r: _ratio(r, "start", "cpu_seconds", "floor"),
        lambda r: f"{_ratio(r, 'start', 'cpu_seconds', 'floor'):.2f}; bare {_cpu(r, 'floor').text(2, ' s')}",
        "start",
    ),
    Goal(
        FIRST_PAGE,
        "≤ 1/9",
        1 / 9,
        lambda r: _ratio(r, "click", "seconds", "recipe"),
        lambda r: (
            _pair(r, "click", "seconds", 2, " s")
            + f"; when it runs already {figure(r, 'click', 'service', 'seconds_when_running').text(2, ' s')}"
        ),
        "click",
    ),
    Goal(
        "memory of the whole container, idle after the first answer",
        "≤ 170 MiB",
        170,
        lambda r: figure(r, "start", "service", "idle_mib").median,
        lambda r: _pair(r, "start", "idle_mib", 0, " MiB"),
        "start",
    ),
    Goal(
        "starts with 256 MiB",
        "does",
        170,
        lambda r: figure(r, "start", "service, 256 MiB", "idle_mib").median,
        lambda r: f"in {figure(r, 'start', 'service, 256 MiB', 'seconds').text(2, ' s')}",
        "start",
    ),
    Goal(
        "image size, of the recipe's",
        "≤ 1/3",
        1 / 3,
        lambda r: r["size_mb"]["service"] / r["size_mb"]["recipe"],
        lambda r: (
            "{service:.0f} MB; recipe {recipe:.0f} MB: ".format(**r["size_mb"])
            + f"1/{r['size_mb']['recipe'] / r['size_mb']['service']:.2f}"
        ),
        "size_mb",
    ),
    Goal(
        "first load of the UI, bytes on the wire",
        "≤ 1.3 MB",
        1.3e6,
        lambda r: figure(r, "click", "service", "bytes").median,
        lambda r: (
            " MB; recipe ".join(
                f"{figure(r, 'click', name, 'bytes').median / 1e6:.2f}" for name in ("service", "recipe")
            )
            + " MB"
        ),
        "click",
    ),
    Goal(
        "one log_metric of MLflow's client, median",
        "≤ 10 ms",
        10,
        lambda r: figure(r, "client", "service", "median_ms").median,
        lambda r: figure(r, "client", "service", "median_ms").text(1, " ms"),
        "client",
    ),
    Goal(
        "its 99th percentile, of the median",
        "≤ 4",
        4,
        lambda r: (
            figure(r, "client", "service", "p99_ms").median
            / figure(r, "client", "service", "median_ms").median
        ),
        lambda r: f"p99 {figure(r, 'client', 'service', 'p99_ms').text(1, ' ms')}",
        "client",
    ),
    Goal(
        THROUGH_PROXY,
        "≥ 0.92",
        0.92,
        lambda r: _load(r, "service", "proxied") / _load(r, "service", "direct"),
        lambda r: (
            f"{_load(r, 'service', 'proxied') / _load(r, 'service', 'direct'):.2f} "
            f"({_rates(r, ('service', 'proxied'), ('service', 'direct'))})"
        ),
        "load",
        at_least=True,
    ),
    Goal(
        "requests a second, of MLflow's own uvicorn with one worker",
        "≥ 1.2",
        1.2,
        lambda r: _load(r, "service", "proxied") / _load(r, ONE, "proxied"),
        lambda r: (
            f"{_load(r, 'service', 'proxied') / _load(r, ONE, 'proxied'):.2f} "
            f"({_rates(r, ('service', 'proxied'), (ONE, 'proxied'))})"
        ),
        "load",
        at_least=True,
    ),
    Goal(
        "`invoke local-up` with the images there",
        "≤ 10 s",
        10,
        lambda r: figure(r, "local-up", "service", "seconds").median,
        lambda r: figure(r, "local-up", "service", "seconds").text(1, " s"),
        "local-up",
    ),
)
