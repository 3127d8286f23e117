"""`python3 -m server.sbom IMAGE`: what the image holds, as a CycloneDX bill of materials.

Read from what is installed, not from what was asked for: Debian's packages, Python's, OAuth2-Proxy.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
from typing import Any

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
            *python_packages(),
            *debian_packages(),
        ],
    }


if __name__ == "__main__":
    print(json.dumps(bill(sys.argv[1]), indent=1))
