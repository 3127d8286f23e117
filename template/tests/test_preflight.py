"""What the container checks before it starts anything, against real sockets."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from server import preflight

CLOSED = 'email_domains = ["example.com"]\n'
PEOPLE = 'oidc_audience_claims = ["project_path", "aud"]\ninsecure_oidc_skip_nonce = false\n'


class Issuer(BaseHTTPRequestHandler):
    """An issuer's discovery document; the first answers may be errors."""

    errors = 0
    says = ""

    def do_GET(self) -> None:
        cls = type(self)
        if cls.errors:
            cls.errors -= 1
            self.send_error(503)
            return
        body = json.dumps({"issuer": cls.says}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def issuer() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Issuer)
    url = f"http://127.0.0.1:{server.server_port}"
    Issuer.errors, Issuer.says = 0, url
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield url
    server.shutdown()
    server.server_close()


@pytest.fixture
def contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "oauth2-proxy.cfg"
    monkeypatch.setenv("OAUTH_PROXY_CONFIG", str(path))
    monkeypatch.setenv("BACKEND_STORE_URI", "postgresql+psycopg2://u:p@/d?host=/cloudsql/x")
    monkeypatch.setenv("DEFAULT_ARTIFACT_ROOT", "gs://bucket/artifacts")
    monkeypatch.setattr(preflight, "EMAILS_FILE", tmp_path / "emails")
    monkeypatch.setattr(preflight, "DEADLINE", 1.0)
    monkeypatch.setattr(preflight, "TIMEOUT", 0.5)
    return path


def test_a_closed_configuration_passes(contract: Path, issuer: str) -> None:
    contract.write_text(f'{CLOSED}extra_jwt_issuers = ["{issuer}=a", "{issuer}=b"]\n')
    assert preflight.main() == 0


def test_an_issuer_may_need_a_moment(contract: Path, issuer: str) -> None:
    Issuer.errors = 2
    contract.write_text(f'{CLOSED}extra_jwt_issuers = ["{issuer}=a"]\n')
    assert preflight.main() == 0
    assert Issuer.errors == 0


def test_an_unreachable_issuer_fails(contract: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    contract.write_text(f'{CLOSED}provider = "oidc"\n{PEOPLE}oidc_issuer_url = "{url}"\n')
    assert preflight.main() == 1
    assert f"{url}/.well-known/openid-configuration did not answer" in capsys.readouterr().err


def test_a_hanging_issuer_fails(contract: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        contract.write_text(f'{CLOSED}extra_jwt_issuers = ["{url}=a"]\n')
        assert preflight.main() == 1
    assert "did not answer" in capsys.readouterr().err


def test_another_issuers_document_fails_at_once(contract: Path, issuer: str) -> None:
    Issuer.says = "https://evil.test"
    problem = preflight.check_issuer(issuer, time.monotonic() + 60)
    assert problem is not None
    assert "names another issuer, 'https://evil.test'" in problem


def test_addresses_are_written_for_the_proxy(contract: Path) -> None:
    emails = preflight.EMAILS_FILE
    contract.write_text(f'authenticated_emails_file = "{emails}"\n# allow: ada@example.org\n# allow: x\n')
    assert preflight.main() == 0
    assert emails.read_text() == "ada@example.org\n"


@pytest.mark.parametrize(
    "line",
    [
        'skip_auth_routes = ["^/api"]',
        'skip_auth_regex = ["^/"]',
        "skip_auth_preflight = true",
        'trusted_ips = ["0.0.0.0/0"]',
        "reverse_proxy = true",
        'whitelist_domains = [".test"]',
        'ping_user_agent = "x"',
        "gcp_healthchecks = true",
        "prefer_email_to_user = true",
        "pass_user_headers = false",
        "pass_access_token = true",
        "pass_authorization_header = true",
        "ssl_insecure_skip_verify = true",
        "insecure_oidc_allow_unverified_email = true",
        "insecure_oidc_skip_issuer_verification = true",
        'htpasswd_file = "/x"',
    ],
)
def test_an_open_setting_is_refused(line: str, contract: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contract.write_text(f"{CLOSED}{line}\n")
    assert preflight.main() == 1
    assert f"preflight: {line.split(' =')[0]} = " in capsys.readouterr().err


@pytest.mark.parametrize("line", PEOPLE.splitlines())
@pytest.mark.parametrize("instead", [None, "true", '["aud"]'])
def test_a_sign_in_that_anybodys_tokens_pass_is_refused(
    line: str, instead: str | None, contract: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """OAuth2-Proxy's own defaults are such."""
    name = line.partition(" =")[0]
    value = f"{name} = {instead}\n" if instead and (instead == "true") == (name[0] == "i") else ""
    contract.write_text(f'{CLOSED}provider = "oidc"\n{PEOPLE.replace(line, value)}')
    assert preflight.main() == 1
    assert f"preflight: {name} " in capsys.readouterr().err


@pytest.mark.parametrize(("line", "words"), [('email_domains = ["*"]', "everybody"), ("", "nobody")])
def test_everybody_and_nobody_are_refused(
    line: str, words: str, contract: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contract.write_text(f"{line}\n")
    assert preflight.main() == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "value"), [("BACKEND_STORE_URI", "sqlite:///x"), ("DEFAULT_ARTIFACT_ROOT", "/tmp/x")]
)
def test_other_stores_are_refused(
    variable: str,
    value: str,
    contract: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    contract.write_text(CLOSED)
    monkeypatch.setenv(variable, value)
    assert preflight.main() == 1
    assert variable in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "not toml"])
def test_an_unreadable_configuration_is_named(
    content: str | None, contract: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content:
        contract.write_text(content)
    assert preflight.main() == 1
    assert str(contract) in capsys.readouterr().err
