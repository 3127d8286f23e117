"""The results as a table beside their goals, as a chart, and beside the last ones that were kept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.goals import FIRST_PAGE, GOALS, THROUGH_PROXY, Results, figure
from benchmarks.levers import LEVERS, TRIED, Lever

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
DOCS = (ROOT / "README.md", ROOT / "docs/performance.md")
CHART = ROOT / "docs/pictures/benchmark.svg"
NEEDS: dict[str, set[str]] = {
    "goals": set(),
    "machine": set(),
    "starts": {"start"},
    "where": {"start", "where"},
    "levers": {"levers"},
    "tried": {"levers"},
    "statements": {"statements"},
    "money": {"start", "click"},
    "missed": {"click", "load"},
}
WORSE = 1.15  # times the last kept value, in the wrong direction: worth a look


def goals(results: Results) -> str:
    """Return the table of goals, in Markdown."""
    rows = ["| what | goal | measured | |", "|---|---|---|---|"]
    for goal in GOALS:
        if goal.needs in results:
            met = "met" if goal.met(results) else "**not met**"
            rows.append(f"| {goal.what} | {goal.goal} | {goal.shown(results)} | {met} |")
    return "\n".join(rows)


def steps(results: Results) -> str:
    """Return the starts of all subjects, in Markdown."""
    rows = ["| | CPU-s to the first answer | s | CPU-s until idle | MiB idle |", "|---|---|---|---|---|"]
    for subject in results["start"]:
        keys = (("cpu_seconds", 2), ("seconds", 2), ("cpu_seconds_until_idle", 2), ("idle_mib", 0))
        shown = (figure(results, "start", subject, key).text(digits) for key, digits in keys)
        rows.append(f"| {subject} | {' | '.join(shown)} |")
    return "\n".join(rows)


def where(results: Results) -> str:
    """Return where a start's CPU goes, in Markdown."""
    rows = ["| step | CPU-ms |", "|---|---|"]
    total = figure(results, "start", "service", "cpu_seconds").median
    for name in results["where"]["service"][0]:
        found = figure(results, "where", "service", name)
        total -= found.median
        rows.append(f"| {name} | {found.median * 1000:.0f} |")
    rows.append(f"| the rest: tini, start.sh, OAuth2-Proxy's start, the first answer | {total * 1000:.0f} |")
    return "\n".join(rows)


# Tier 1, billing by request: https://cloud.google.com/run/pricing, as of 2025
VCPU_SECOND, GIB_SECOND = 0.000024, 0.0000025  # US dollars
STARTS = 40 * 22  # a month: of a team, on its working days
GIB = {"service": 0.5, "recipe": 2.0}  # the recipe's 1.5 GiB do not fit into less


def money(results: Results) -> str:
    """Return what the starts of a month cost, in Markdown."""
    rows = ["| | s a start | GiB | $ a month | hours that people wait |", "|---|---|---|---|---|"]
    for name, gib in GIB.items():
        seconds = figure(results, "start", name, "seconds").median
        price = STARTS * seconds * (VCPU_SECOND + GIB_SECOND * gib)
        hours = STARTS * figure(results, "click", name, "seconds").median / 3600
        rows.append(f"| {name} | {seconds:.1f} | {gib} | {price:.2f} | {hours:.1f} |")
    return "\n".join(rows)


def missed(results: Results) -> str:
    """Return why goals are not reached, in numbers, in Markdown.

    Raises:
        KeyError: one is not reached, and nothing here explains it.
    """
    explained = {FIRST_PAGE: _first_page, THROUGH_PROXY: _through_proxy}
    return "\n\n".join(explained[goal.what](results) for goal in GOALS if not goal.met(results))


def _first_page(results: Results) -> str:
    cold, warm = (
        figure(results, "click", "service", key).median for key in ("seconds", "seconds_when_running")
    )
    recipe = figure(results, "click", "recipe", "seconds").median
    return (
        f"**The first page.** Of its {cold:.2f} s the page itself takes {warm:.2f} s, with a server that "
        "runs already: fetching and running MLflow's JavaScript. For a ninth of the recipe's "
        f"{recipe:.1f} s the start would have to add {recipe / 9 - warm:.2f} s instead of "
        f"{cold - warm:.2f} s, or MLflow's main script, of which the list of experiments needs little, to "
        "come in parts."
    )


def _through_proxy(results: Results) -> str:
    rows = [
        "**The proxy.** It shares one CPU with MLflow. The less MLflow takes for a request, the larger is "
        "the proxy's share: to check the token and its signature, to choose the route, to forward, to write "
        "the line, and to build its chain of handlers, which it does anew for each request. Its profile has "
        "no large part, and its settings none that would spare one; the collector's change little (below). "
        "It would have to cost a third. In all, a request costs less than with MLflow's own server:",
        "",
        "| CPU-ms a request: through the proxy, directly | service | recipe, one worker |",
        "|---|---|---|",
    ]
    for kind in results["load"]["service"][0]:
        cells = []
        for subject in ("service", "recipe, one worker"):
            through, direct = (
                figure(results, "load", subject, kind, way, "cpu_ms_a_request").median
                for way in ("proxied", "direct")
            )
            cells.append(f"{through:.2f}, {direct:.2f}: {through - direct:.2f} more")
        rows.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(rows)


# How a lever is shown: where in its measure, what that is, digits.
SHOWN: dict[str, tuple[tuple[str, ...], str, int]] = {
    "start": (("cpu_seconds",), "CPU-s to the first answer", 2),
    "seconds": (("seconds",), "s to the first answer", 2),
    "click": (("bytes",), "bytes of the first page", 0),
    "page": (("seconds_when_running",), "s of the first page, the server running", 2),
    "size": (("mb",), "MB of image", 0),
    "load": (("experiments/search", "proxied", "requests_per_second"), "experiments/search a second", 0),
    "two": (("mib",), "MiB of two processes after requests", 0),
    "batch": (("log-batch", "proxied", "requests_per_second"), "log-batch of 100 a second", 0),
}


def levers(results: Results) -> str:
    """Return what each lever is worth, in Markdown."""
    return _changes(results, LEVERS, "| lever | measure | with it | taken out | |")


def tried(results: Results) -> str:
    """Return what would come of what was tried, in Markdown."""
    return _changes(results, TRIED, "| tried | measure | without it | with it | |")


def _changes(results: Results, those: Sequence[Lever], head: str) -> str:
    rows = [head, "|---|---|---|---|---|"]
    for lever in those:
        path, measure, digits = SHOWN[lever.figure or lever.measure]
        mine, other = (
            figure(results["levers"], lever.measure, subject, *path) for subject in ("service", lever.name)
        )
        change = (other.median / mine.median - 1) * 100
        rows.append(
            f"| {lever.name} | {measure} | {mine.text(digits)} | {other.text(digits)} | {change:+.0f} % |"
        )
    return "\n".join(rows)


def statements(results: Results) -> str:
    """Return what a start and each kind of request take in statements, in Markdown."""
    subjects = list(results["statements"])
    rows = [f"| | {' | '.join(subjects)} |", "|---|" + "---|" * len(subjects)]
    for name in results["statements"][subjects[0]][0]:
        counts = (f"{results['statements'][subject][0][name]:.0f}" for subject in subjects)
        rows.append(f"| {name} | {' | '.join(counts)} |")
    return "\n".join(rows)


def against(results: Results, last: Results | None) -> str:
    """Return how this run's goals compare with those of the last one kept; "" when there is none."""
    if last is None:
        return "No earlier results are kept."
    lines = [f"Beside the results of {last['date']}:"]
    for goal in GOALS:
        if goal.needs in results and goal.needs in last:
            now, before = goal.value(results), goal.value(last)
            change = before / now if goal.at_least else now / before
            mark = "  <-- worse" if change > WORSE else ""
            lines.append(f"  {now:8.3g}  {before:8.3g}  {goal.what}{mark}")
    return "\n".join(lines)


def newest() -> Results | None:
    """Return the newest results that are kept."""
    files = sorted(RESULTS.glob("*.json"))
    return dict(json.loads(files[-1].read_text())) if files else None


def keep(results: Results) -> None:
    """Write the results, the chart, and the tables into the documents.

    One day's are one file: what is measured by itself takes its place among the others.
    """
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{results['date']}.json"
    earlier = json.loads(file.read_text()) if file.exists() else {}
    results = {**earlier, **results}
    file.write_text(json.dumps(results, indent=1) + "\n")
    chart(results)
    for document in DOCS:
        document.write_text(filled(document.read_text(), results))


def filled(text: str, results: Results) -> str:
    """Return a document whose tables, each between `<!-- NAME -->` and `<!-- -->`, are the results'."""
    tables: dict[str, Callable[[Results], str]] = {
        "goals": goals,
        "starts": steps,
        "where": where,
        "money": money,
        "missed": missed,
        "levers": levers,
        "tried": tried,
        "statements": statements,
        "machine": said,
    }
    for name, table in tables.items():
        if not NEEDS[name] <= set(results):
            continue
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- -->)",
            lambda match, table=table: f"{match[1]}{table(results)}\n{match[2]}",  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
    return text


def said(results: Results) -> str:
    """Say where and how often it was measured."""
    machine = results["machine"]
    return (
        f"Measured on {results['date']}: {machine['cpu']}, {machine['cores']} cores, Docker "
        f"{machine['docker']}, MLflow {machine['mlflow']}; medians of {results['rounds']} runs "
        "in turn, smallest and largest in brackets."
    )


def chart(results: Results) -> None:
    """Draw the service beside the recipe."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "the same each time"
    panels: Sequence[tuple[str, Callable[[str], float]]] = (
        ("CPU seconds to the\nfirst API answer", lambda s: figure(results, "start", s, "cpu_seconds").median),
        (
            "seconds until a browser\nshows the experiments",
            lambda s: figure(results, "click", s, "seconds").median,
        ),
        ("MiB of memory, idle", lambda s: figure(results, "start", s, "idle_mib").median),
        ("MB of image", lambda s: results["size_mb"][s]),
    )
    if not {"start", "click"} <= set(results):
        return
    drawn, axes = plt.subplots(1, len(panels), figsize=(9, 2.4))
    for axis, (title, value) in zip(axes, panels, strict=True):
        values = [value(name) for name in ("service", "recipe")]
        bars = axis.bar(["this", "recipe"], values, color=["#1a73e8", "#bdc1c6"], width=0.6)
        axis.bar_label(bars, fmt=lambda number: f"{number:.2f}" if number < 10 else f"{number:.0f}")  # noqa: PLR2004
        axis.set_title(title, fontsize=9)
        axis.set_yticks([])
        axis.margins(y=0.2)
        axis.spines[["top", "right", "left"]].set_visible(False)
    drawn.tight_layout()
    drawn.savefig(CHART, metadata={"Date": None})
    plt.close(drawn)
