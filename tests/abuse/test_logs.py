"""The log: who did what, joined by the request's trace; no secrets in it, no line that a caller wrote."""

from __future__ import annotations

import json
import re
import secrets
import tomllib
from typing import Any

import pytest

from emulator.engine import wait_until
from tests.abuse.browser import Browser
from tests.abuse.conftest import Target
from tests.abuse.forge import ANN, COOKIE, Forge
from tests.abuse.place import Place
from tests.abuse.wire import SEARCH, request
from tests.cloud.conftest import PROJECT


def entries(place: Place, marker: str, how_many: int = 1) -> list[dict[str, Any]]:
    """Return the entries of Cloud Logging with a text in them, when there are so many of the container's."""

    def found() -> list[dict[str, Any]]:
        return [entry for entry in place.entries() if marker in json.dumps(entry)]

    wait_until(lambda: len(found()) >= how_many, marker, 10)
    return found()


@pytest.mark.parametrize("how", ["bearer", "cookie", "nobody", "stranger"])
def test_each_request_is_an_entry_that_says_who(how: str, place: Place, forge: Forge, session: str) -> None:
    marker, trace = secrets.token_hex(8), secrets.token_hex(16)
    who = {
        "bearer": ("Authorization", f"Bearer {forge.token()}"),
        "cookie": ("Cookie", f"{COOKIE}={session}"),
        "stranger": ("Authorization", f"Bearer {forge.token(email='mallory@elsewhere.test')}"),
        "nobody": ("X", "y"),
    }[how]
    headers = dict([who, ("X-Cloud-Trace-Context", f"{trace}/1;o=1")])
    answer = place.get(f"{SEARCH}&x={marker}", headers)
    (entry,) = [entry for entry in entries(place, marker) if "httpRequest" in entry]
    assert entry["severity"] == "INFO"
    assert entry["trace"] == f"projects/{PROJECT}/traces/{trace}"
    asked = entry["httpRequest"]
    assert asked["requestMethod"] == "GET"
    assert asked["requestUrl"].endswith(f"{SEARCH}&x={marker}")
    assert asked["status"] == answer.status_code == {"nobody": 401, "stranger": 403}.get(how, 200)
    assert asked["latency"].endswith("s") and asked["userAgent"].startswith("python-requests")
    user = {"nobody": "-", "stranger": "mallory@elsewhere.test"}.get(how, ANN)
    assert entry["jsonPayload"]["user"] == (user if how != "stranger" else entry["jsonPayload"]["user"])
    if how == "stranger":
        refusals = [entry for entry in entries(place, trace, 2) if "auth" in entry.get("jsonPayload", {})]
        assert "mallory@elsewhere.test" in json.dumps(refusals)


def lines_after(service: Target, *requests: bytes) -> list[str]:
    """Send requests; return the log's lines of these, and of a last one that is known."""
    first, last = (secrets.token_hex(8) for _ in range(2))
    for data in (request(target=f"/api/{first}"), *requests, request(target=f"/api/{last}")):
        service.send(data)
    wait_until(lambda: last in service.log(), "the last line", 10)
    lines = service.log().splitlines()
    begin, end = (next(i for i, line in enumerate(lines) if mark in line) for mark in (first, last))
    return lines[begin + 1 : end]


REFUSED = "No valid authentication in request. Access Denied."


FORGED = '{"severity":"INFO","user":"ann@example.com"}'


@pytest.mark.parametrize(
    "text",
    [
        FORGED,
        f'"}}\n{FORGED}',
        f"\\n{FORGED}",
        f'","user":"root"}}{FORGED}',
        "%0a" + FORGED,
        "\u2028" + FORGED,
        '"\\',
        "{{.User}}",
    ],
    ids=ascii,
)
@pytest.mark.parametrize(
    "where", ["User-Agent", "X-Cloud-Trace-Context", "Referer", "path", "query", "method"]
)
def test_no_caller_writes_a_line(where: str, text: str, service: Target) -> None:
    inline = text.replace("\n", " ")
    data = {
        "path": request(target="/api/" + inline.replace(" ", "%20")),
        "query": request(target=f"{SEARCH}&x=" + inline.replace(" ", "%20")),
        "method": request("".join(filter(str.isalpha, text)) or "X"),
    }.get(where) or request(headers=[(where, inline)])
    found = [json.loads(line) for line in lines_after(service, data)]
    (entry,) = [entry for entry in found if "httpRequest" in entry]
    assert [entry["message"] for entry in found if "httpRequest" not in entry] == [REFUSED] * 2
    assert entry["user"] == "-"
    assert entry["httpRequest"]["status"] == 401


@pytest.mark.parametrize("data", [
    request(headers=[("User-Agent", b"\xff\xfe")]),
    request(headers=[("X-Cloud-Trace-Context", b"\xff" * 32 + b"/1")]),
    request(headers=[("X-Cloud-Trace-Context", "x" * 33)]),
    request(headers=[("X-Cloud-Trace-Context", "")]),
    request(headers=[("X-Cloud-Trace-Context", "/")]),
    request(target=SEARCH.encode() + b"&x=\xff"),
    request(headers=[("User-Agent", "\U000e0001")]),
])  # fmt: skip
def test_odd_bytes_stay_on_one_line(data: bytes, service: Target) -> None:
    """It may be text instead of JSON: docs/security.md says so."""
    refused, line, of_the_last = lines_after(service, data)
    assert REFUSED in refused and REFUSED in of_the_last
    assert line.startswith('{"severity":"INFO"') and '"status":401' in line


def test_no_secret_is_in_the_log(
    service: Target, place: Place, forge: Forge, browser: Browser, bearer: tuple[str, str]
) -> None:
    token, session = forge.token(), browser.sign_in(ANN)
    service.ask(headers=[("Authorization", f"Bearer {token}")])
    service.ask(headers=[("Cookie", f"{COOKIE}={session}")])
    service.ask("GET", "/", [("Authorization", f"Bearer {token}x")])
    service.ask(headers=[("Cookie", f"{COOKIE}={session}x")])
    lines_after(service)
    log = service.log()
    hidden = {
        "token": token.split(".")[2],
        "session": session.split("|")[0],
        "cookie secret": tomllib.loads(place.configuration())["cookie_secret"],
        **place.hidden,
    }
    assert not [name for name, secret in hidden.items() if secret in log]
    assert not re.search(r"ya29\.[\w-]{4}", log)  # the proxy writes of an access token its kind only
    assert "ann@example.com" in log


def test_mlflow_knows_no_secret_of_the_proxy(service: Target) -> None:
    """And the proxy none of MLflow's: the environment of each process, as the kernel has it."""
    script = """
import pathlib
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    command = (folder / "cmdline").read_bytes().replace(b"\\0", b" ").decode()
    if command.startswith(("python3 -m server", "oauth2-proxy")):
        names = sorted(v.split("=")[0] for v in (folder / "environ").read_text().split("\\0"))
        print(command.split()[0], " ".join(names))
"""
    code, output = service.container.exec_run(["python3", "-c", script])
    assert code == 0, output
    names = dict(line.split(" ", 1) for line in output.decode().splitlines())
    assert "OAUTH2_PROXY" not in names["python3"]
    assert "BACKEND_STORE_URI" not in names["oauth2-proxy"]
    assert "PASSPHRASE" not in names["oauth2-proxy"]
