"""`python -m tests.audit [FOLDER...]`: what the image holds against known vulnerabilities.

The image's own bill of materials is compared with PyPI's advisories, by pip-audit, and with the advisories in
folders, in OSV's format: a clone of github.com/pypa/advisory-database or github.com/golang/vulndb. What no
source answered for was not checked, and is said.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import yaml
from packaging.version import InvalidVersion, Version

from tests.conftest import render_to

ECOSYSTEMS = {"pypi": "PyPI", "golang": "Go", "deb": "Debian", "generic": "Python itself"}
Installed = dict[str, dict[str, str]]  # ecosystem: name: version


def bill() -> tuple[Installed, bytes]:
    """Build the default answers' image; return what it says that it holds, and OAuth2-Proxy."""
    with tempfile.TemporaryDirectory() as scratch:
        project = render_to(Path(scratch) / "project")
        sys.path.insert(0, str(project))
        from deployment import engine
        from deployment.settings import Settings

        settings = Settings.load(yaml.safe_load((project / "invoke.yaml").read_text())["deployment"])
        client = docker.from_env()
        engine.HERE = project
        engine.build_server(client, settings.images, "mlflow-audit", lambda _: None)

    def cat(path: str) -> bytes:
        return bytes(client.containers.run("mlflow-audit", [path], entrypoint="cat", remove=True))

    found: Installed = defaultdict(dict)
    for part in json.loads(cat("/app/sbom.json"))["components"]:
        kind = part["purl"].partition(":")[2].partition("/")[0]
        found[ECOSYSTEMS.get(kind, kind)][part["name"]] = part["version"]
    return found, cat("/usr/local/bin/oauth2-proxy")


def by_pypi(packages: dict[str, str]) -> tuple[list[str], int]:
    """Return what PyPI's own advisories say, and of how many packages it knows."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("".join(f"{name}=={version}\n" for name, version in packages.items()))
        file.flush()
        command = ["pip-audit", "--no-deps", "--disable-pip", "--format=json", "--requirement", file.name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    try:
        answers = json.loads(done.stdout)["dependencies"]
    except ValueError:
        return [], 0
    known = [answer for answer in answers if "vulns" in answer]
    return [f"{a['name']} {a['version']}: {v['id']}" for a in known for v in a["vulns"]], len(known)


def advisories(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield each advisory of a folder that was not withdrawn."""
    for path in sorted(folder.rglob("*")):
        if path.suffix not in (".json", ".yaml") or ".git" in path.parts:
            continue
        text = path.read_text(encoding="utf-8")
        read = json.loads(text) if path.suffix == ".json" else yaml.load(text, yaml.CSafeLoader)
        if isinstance(read, dict) and "affected" in read and not read.get("withdrawn"):
            yield read


def order(version: str) -> Any:
    """Return what versions are ordered by: Python's rules, or Go's, whose dates are no Python version."""
    try:
        return Version(version)
    except InvalidVersion:
        # v0.0.0-20200107190931-bf48bf16ab8d comes before any v0.1.0
        return Version(version.partition("-")[0] + ".dev0")


def in_ranges(version: str, ranges: list[dict[str, Any]]) -> bool:
    """Say whether a version is in one of an advisory's ranges."""
    for events in (entry["events"] for entry in ranges if entry["type"] in ("ECOSYSTEM", "SEMVER")):
        inside = False
        for event in events:
            ((what, when),) = event.items()
            if order(when) <= order(version) and what in ("introduced", "fixed"):
                inside = what == "introduced"
            elif what == "last_affected" and order(when) < order(version):
                inside = False
        if inside:
            return True
    return False


def by_folder(folder: Path, installed: Installed, program: bytes) -> tuple[list[str], dict[str, int]]:
    """Return what a folder's advisories say, and how many there are of each ecosystem."""
    found, counts = [], dict.fromkeys(ECOSYSTEMS.values(), 0)
    for advisory in advisories(folder):
        for affected in advisory["affected"]:
            package = affected["package"]
            ecosystem = package["ecosystem"].partition(":")[0]
            if ecosystem not in counts:
                continue
            counts[ecosystem] += 1
            version = installed[ecosystem].get(package["name"], "").removeprefix("v")
            named = version in affected.get("versions", [])
            linked = [entry["path"] for entry in affected.get("ecosystem_specific", {}).get("imports", [])]
            # A Go module is many packages, of which the program has some.
            absent = linked and not any(f"{path}.".encode() in program for path in linked)
            if version and not absent and (named or in_ranges(version, affected.get("ranges", []))):
                found.append(f"{package['name']} {version}: {advisory['id']}")
    return found, counts


def main(folders: list[str]) -> int:
    """Print what was checked and what was found; return the exit code."""
    installed, program = bill()
    print("in the image:", ", ".join(f"{len(names)} of {kind}" for kind, names in installed.items()))
    found, known = by_pypi(installed["PyPI"])
    print(f"PyPI answered for {known} of {len(installed['PyPI'])} packages")
    checked = {"PyPI"} if known == len(installed["PyPI"]) else set()
    for folder in folders:
        hits, counts = by_folder(Path(folder), installed, program)
        found += hits
        checked |= {kind for kind, count in counts.items() if count}
        print(f"{folder}: {sum(counts.values())} advisories")
    for line in found:
        print(f"!! {line}")
    missing = [kind for kind in ECOSYSTEMS.values() if kind not in checked]
    print(f"known vulnerabilities: {len(found)}")
    print(f"not checked, as no source answered: {', '.join(missing) or 'nothing'}")
    return 1 if found or not checked else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
