"""The proxy's configuration: closed whatever the provider, and in agreement with what is around it."""

import base64
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from deployment import proxy
from server import environment, preflight

ROOT = Path(__file__).parent.parent
PROVIDERS = {
    "google": proxy.Provider("google", "id.apps.googleusercontent.com", 'a"b\\c'),
    "oidc": proxy.Provider("oidc", "id", "secret", "https://gitlab.com"),
    "entra": proxy.Provider(
        "oidc", "id", "secret", "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0"
    ),
    "github": proxy.Provider("github", "id", "secret"),
}


def text(kind: str, emails: tuple[str, ...] = ()) -> str:
    return proxy.render(
        PROVIDERS[kind],
        url="https://mlflow-1.europe-west1.run.app",
        google_project="my-project",
        allowed_domains=["example.com"],
        allowed_emails=emails,
        cookie_secret=proxy.new_cookie_secret(),
    )


@pytest.mark.parametrize("kind", PROVIDERS)
def test_nothing_is_open(kind: str) -> None:
    config = tomllib.loads(text(kind))
    assert preflight.open_settings(config) == []
    assert config["cookie_name"].startswith("__Host-")
    assert config["cookie_secure"] is config["cookie_httponly"] is True
    assert config["email_domains"] == ["example.com"]
    assert config["redirect_url"] == "https://mlflow-1.europe-west1.run.app/oauth2/callback"


def test_log_lines_name_the_projects_traces() -> None:
    config = tomllib.loads(text("google"))
    for name in ("auth_logging_format", "request_logging_format"):
        assert '"logging.googleapis.com/trace":' in config[name]
        assert "projects/my-project/traces/" in config[name]


def test_google_takes_gclouds_tokens_and_those_made_for_the_service() -> None:
    config = tomllib.loads(text("google"))
    assert config["client_secret"] == 'a"b\\c'
    assert config["extra_jwt_issuers"] == [
        "https://accounts.google.com=32555940559.apps.googleusercontent.com",
        "https://accounts.google.com=https://mlflow-1.europe-west1.run.app",
    ]
    assert preflight.issuers(config) == ["https://accounts.google.com"]


@pytest.mark.parametrize("kind", ["oidc", "github"])
def test_a_service_account_that_is_named_enters_by_googles_token_for_the_service(kind: str) -> None:
    account = "mlflow-dep@my-project.iam.gserviceaccount.com"
    config = tomllib.loads(text(kind, emails=(account,)))
    assert config["extra_jwt_issuers"] == [
        "https://accounts.google.com=https://mlflow-1.europe-west1.run.app"
    ]
    assert "extra_jwt_issuers" not in tomllib.loads(text(kind, emails=("ada@example.org",)))


def test_oidc_names_its_issuer() -> None:
    config = tomllib.loads(text("oidc"))
    assert preflight.issuers(config) == [config["oidc_issuer_url"]] == ["https://gitlab.com"]


def test_a_token_is_a_persons_and_of_this_sign_in() -> None:
    for kind in ("oidc", "entra"):
        config = tomllib.loads(text(kind))
        assert config["oidc_audience_claims"] == ["project_path", "aud"]
        assert config["insecure_oidc_skip_nonce"] is False


def test_entras_people_are_those_who_sign_in() -> None:
    assert tomllib.loads(text("entra"))["oidc_email_claim"] == "preferred_username"
    assert "oidc_email_claim" not in tomllib.loads(text("oidc"))


def test_addresses_travel_in_the_configuration() -> None:
    made = text("github", emails=("ada@example.org", "grace@example.org"))
    assert preflight.allowed_emails(made) == ["ada@example.org", "grace@example.org"]
    assert tomllib.loads(made)["authenticated_emails_file"] == str(preflight.EMAILS_FILE)


def test_no_address_no_file() -> None:
    assert "authenticated_emails_file" not in tomllib.loads(text("google"))


def test_cookie_secret_is_32_bytes_in_base64url() -> None:
    made = {proxy.new_cookie_secret() for _ in range(100)}
    assert len(made) == 100
    assert {len(base64.urlsafe_b64decode(secret)) for secret in made} == {32}


def test_mlflow_port_is_one_in_all_files() -> None:
    config = tomllib.loads(text("google"))
    start = (ROOT / "start.sh").read_text()
    assert config["upstreams"] == [f"http://{environment.HOST}:{environment.PORT}/"]
    assert f"\nMLFLOW_PORT={environment.PORT}\n" in start


def test_images_in_dockerfiles_are_those_of_invoke_yaml() -> None:
    import yaml

    images = yaml.safe_load((ROOT / "invoke.yaml").read_text())["deployment"]["images"]
    for path in (ROOT / "Dockerfile", ROOT / "local/sign-in/Dockerfile"):
        for name, default in re.findall(r"^ARG (\w+)_IMAGE=(.+)$", path.read_text(), re.MULTILINE):
            assert images[name.lower()] == default


@pytest.mark.parametrize(
    "path",
    [
        "/api/2.0/mlflow/experiments/search",
        "/ajax-api/2.0/mlflow/runs/search",
        "/v1/traces",
        "/graphql",
        "/get-artifact",
        "/gateway/x/mlflow/invocations",
        "/health",
        "/version",
    ],
)
def test_programs_paths_answer_401_not_a_redirect(path: str) -> None:
    config: dict[str, Any] = tomllib.loads(text("google"))
    assert any(re.search(route, path) for route in config["api_routes"])
    assert not any(re.search(route, "/") for route in config["api_routes"])
