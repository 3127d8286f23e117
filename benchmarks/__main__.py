"""`python -m benchmarks`: measure, keep the results, draw them, compare them with the last ones kept."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import measures, report
from benchmarks.levers import LEVERS, TRIED
from benchmarks.stage import Stage, Subject

MEASURES = ("start", "click", "load", "client", "statements", "local-up", "levers")


def main() -> None:
    """Measure what is asked for, in turn, and say where the results are."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds, and fewer requests")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured, in turn")
    parser.add_argument("--only", choices=MEASURES, action="append", help="one measure; may be given again")
    parser.add_argument("--keep", action="store_true", help="keep the results: docs and chart show them")
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds
    results = run(arguments.only or MEASURES, rounds, 0.2 if arguments.quick else 1.0)
    print(report.goals(results), report.against(results, report.newest()), sep="\n\n")
    if arguments.keep:
        report.keep(results)


def run(wanted: tuple[str, ...] | list[str], rounds: int, scale: float) -> dict[str, Any]:
    """Measure, and return all single results."""
    stage = Stage()
    results: dict[str, Any] = {
        "date": f"{datetime.date.today()}",
        "machine": machine(stage),
        "rounds": rounds,
    }
    with stage.up():
        subjects = stage.subjects()
        service, recipe, one = (subjects[name] for name in ("service", "recipe", "recipe, one worker"))
        results["size_mb"] = {s.name: measures.size(stage, s) for s in (service, recipe)}
        if "start" in wanted:
            results["start"] = in_turn(rounds, list(subjects.values()), lambda s: measures.start(stage, s))
            small = Subject("service, 256 MiB", service.image, "256m")
            results["start"] |= in_turn(rounds, [small], lambda s: measures.start(stage, s))
            results["where"] = in_turn(rounds, [service], lambda s: measures.where(stage, s))
        if "click" in wanted:
            results["click"] = in_turn(rounds, [service, recipe], lambda s: measures.first_click(stage, s))
        if "load" in wanted:
            results["load"] = in_turn(rounds, [service, one], lambda s: measures.load(stage, s, scale))
        if "client" in wanted:
            results["client"] = in_turn(
                rounds, [service], lambda s: measures.log_metric(stage, s, int(500 * scale))
            )
        if "statements" in wanted:
            # Counted, not timed: once is enough.
            results["statements"] = in_turn(1, [service, one], lambda s: measures.statements(stage, s))
        if "levers" in wanted:
            results["levers"] = levers(stage, service, rounds, scale)
        if "local-up" in wanted:
            results["local-up"] = in_turn(rounds, [service], lambda _: measures.local_up(stage))
    return results


def in_turn(rounds: int, subjects: list[Subject], measure: Callable[[Subject], Any]) -> dict[str, list[Any]]:
    """Measure one after the other, round by round: what disturbs the machine disturbs all of them."""
    found: dict[str, list[Any]] = {subject.name: [] for subject in subjects}
    for number in range(rounds):
        for subject in subjects:
            found[subject.name].append(measure(subject))
            print(f"{number + 1}/{rounds} {subject.name}: {_short(found[subject.name][-1])}", flush=True)
    return found


def levers(stage: Stage, service: Subject, rounds: int, scale: float) -> dict[str, Any]:
    """Measure the service without each lever, and with what was tried, in turn with the service as it is."""
    by: dict[str, Callable[[Subject], Any]] = {
        "start": lambda s: measures.start(stage, s),
        "click": lambda s: measures.first_click(stage, s),
        "size": lambda s: {"mb": measures.size(stage, s)},
        "load": lambda s: measures.load(stage, s, scale / 2),
        "two": lambda s: measures.two_processes(stage, s),
    }
    found = {}
    for name, measure in by.items():
        without_one = [stage.without(lever) for lever in (*LEVERS, *TRIED) if lever.measure == name]
        found[name] = in_turn(1 if name == "size" else rounds, [service, *without_one], measure)
    return found


def machine(stage: Stage) -> dict[str, Any]:
    """Say what this was measured on."""
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return {
        "cpu": models[0].partition(": ")[2] if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "docker": stage.engine.version()["Version"],
        "mlflow": stage.mlflow,
    }


def _short(numbers: Any) -> str:
    return json.dumps(numbers, default=str)[:150]


if __name__ == "__main__":
    main()
