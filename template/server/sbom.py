"""`python3 -m server.sbom IMAGE`: what the image holds, as a CycloneDX bill of materials.

Read from what is installed, not from what was asked for: Debian's packages, Python's, OAuth2-Proxy and the
Go modules that it is linked of.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

PROXY = Path("/usr/local/bin/oauth2-proxy")
Component = dict[str, Any]


def component(name: str, version: str, purl: str, kind: str = "library") -> Component:
    """Return an entry; its package URL (https://github.com/package-url/purl-spec) is its reference too."""
    return {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}


def python_packages() -> list[Component]:
    """Return what is installed for this interpreter."""
    found = {(d.name.lower().replace("_", "-"), d.version) for d in importlib.metadata.distributions()}
    return [component(name, version, f"pkg:pypi/{name}@{version}") for name, version in sorted(found)]


def debian_packages() -> list[Component]:
    """Return what dpkg has installed."""
    form = "--showformat=${Package} ${Version} ${Architecture}\\n"
    lines = subprocess.run(["dpkg-query", "--show", form], check=True, capture_output=True, text=True).stdout
    parts = [line.split() for line in lines.splitlines()]
    return [component(n, v, f"pkg:deb/debian/{n}@{v.replace('+', '%2B')}?arch={a}") for n, v, a in parts]


def go_modules(program: bytes) -> list[Component]:
    """Return what a Go program says that it is made of, as `go version -m` reads it."""
    release = re.search(rb"\xff Go buildinf:.{19}go([0-9.]+)", program, re.DOTALL)
    found = {(name.decode(), v.decode()) for name, v in re.findall(rb"\ndep\t(\S+)\t(v\S+)", program)}
    if release:
        found.add(("stdlib", release[1].decode()))
    return [component(name, version, f"pkg:golang/{name}@{version}") for name, version in sorted(found)]


def bill(proxy_image: str) -> dict[str, Any]:
    """Return the bill of materials.

    Args:
        proxy_image: the image, with its tag, that OAuth2-Proxy was copied from.
    """
    proxy, python = proxy_image.rpartition(":")[2], platform.python_version()
    module = "github.com/oauth2-proxy/oauth2-proxy/v7"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": "mlflow-behind-oauth2-proxy"}},
        "components": [
            component("oauth2-proxy", proxy, f"pkg:golang/{module}@{proxy}", "application"),
            component("python", python, f"pkg:generic/python@{python}", "platform"),
            *go_modules(PROXY.read_bytes()),
            *python_packages(),
            *debian_packages(),
        ],
    }


if __name__ == "__main__":
    print(json.dumps(bill(sys.argv[1]), indent=1))
