"""What invoke.yaml may say, and what follows from it."""

from pathlib import Path

import pytest
import yaml

from deployment.rules import LEAST_POOL, MOST_POOL, tier_connections
from deployment.settings import Settings, SettingsError

GOOD = {
    "title": "MLflow",
    "service": "mlflow",
    "google_project": "my-project",
    "region": "europe-west1",
    "allowed": ["example.com", "ada@example.org"],
    "identity_provider": "google",
    "oidc_issuer_url": "",
    "artifacts": "direct",
    "database": "cloudsql",
    "database_tier": "db-f1-micro",
    "cpu_allocation": "request",
    "cpu": 1,
    "memory": "512Mi",
    "min_instances": 0,
    "max_instances": 3,
    "builder": "cloudbuild",
    "ci": "github",
    "images": {"python": "p", "oauth2_proxy": "o", "postgres": "q", "fake_gcs_server": "f"},
}


def settings(**changes: object) -> Settings:
    return Settings.load({**GOOD, **changes})


def test_own_settings_hold() -> None:
    path = Path(__file__).parent.parent / "invoke.yaml"
    Settings.load(yaml.safe_load(path.read_text())["deployment"])


def test_allowed_is_split_into_domains_and_addresses() -> None:
    assert settings().allowed_domains == ("example.com",)
    assert settings().allowed_emails == ("ada@example.org",)


def test_service_accounts_are_no_people() -> None:
    entries = ["example.com", "ada@example.org", "mlflow-dep@my-project.iam.gserviceaccount.com"]
    assert settings(allowed=entries).allowed_people == ("ada@example.org",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ci": "jenkins"}, "ci is 'jenkins'"),
        ({"service": "M"}, "service is 'M'"),
        ({"service": "my-google-thing"}, "may not hold 'google'"),
        ({"service": "a" * 27}, "2 to 26"),
        ({"google_project": "123"}, "google_project is '123'"),
        ({"region": "Europe"}, "region is 'Europe'"),
        ({"allowed": []}, "nobody could sign in"),
        ({"allowed": ["*"]}, "let everybody in"),
        ({"allowed": ["*.example.com"]}, "let everybody in"),
        ({"allowed": ["gmail.com"]}, "anybody can open an account"),
        ({"allowed": ["Example.com"]}, "lower case"),
        ({"allowed": ["a@b@example.com"]}, "no address"),
        ({"allowed": ["ada@example.com\nb"]}, "'ada@example.com\\nb'"),
        ({"allowed": "example.com"}, "give a list"),
        ({"identity_provider": "gitlab"}, "google, oidc, github"),
        ({"identity_provider": "oidc"}, "oidc_issuer_url is ''"),
        ({"identity_provider": "oidc", "oidc_issuer_url": "http://x.test"}, "https://"),
        ({"artifacts": "none"}, "direct, proxied"),
        ({"memory": "256Mi"}, "at least 512Mi"),
        ({"memory": "512"}, "Mi or Gi"),
        ({"memory": "8Gi"}, "at most 4096Mi"),
        ({"cpu": 2}, "at least 768Mi"),
        ({"cpu": 3}, "1, 2, 4, 6, 8"),
        ({"cpu": True}, "cpu is True"),
        ({"min_instances": 4}, "0 <= min <= max"),
        ({"max_instances": 0, "min_instances": 0}, "at least 1"),
        ({"max_instances": 5}, "27 connections"),
        ({"database_tier": "db-n1-standard-1"}, "database_tier is 'db-n1-standard-1'"),
        ({"nonsense": 1}, "nonsense is no setting"),
        ({"images": {}}, "images holds []"),
    ],
)
def test_what_does_not_hold_is_refused_with_its_value(changes: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(**changes)
    assert words in str(caught.value)


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        settings(region="x", service="y", memory="1Ki")
    assert len(str(caught.value).splitlines()) == 4


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(SettingsError, match="region is missing"):
        Settings.load({name: value for name, value in GOOD.items() if name != "region"})


@pytest.mark.parametrize(
    ("tier", "connections"),
    [
        ("db-f1-micro", 25),
        ("db-g1-small", 50),
        ("db-custom-1-3840", 100),
        ("db-custom-2-7680", 400),
        ("db-custom-4-15360", 500),
        ("db-custom-64-245760", 1000),
        ("mysql", 0),
    ],
)
def test_connections_of_a_tier(tier: str, connections: int) -> None:
    assert tier_connections(tier) == connections


@pytest.mark.parametrize("tier", ["db-f1-micro", "db-g1-small", "db-custom-1-3840"])
@pytest.mark.parametrize("cpu", [1, 2])
@pytest.mark.parametrize("most", [1, 2, 4, 10])
def test_all_processes_together_stay_within_the_tier(tier: str, cpu: int, most: int) -> None:
    try:
        made = settings(database_tier=tier, cpu=cpu, memory="1Gi", max_instances=most)
    except SettingsError:
        assert LEAST_POOL * cpu * (most + 1) + 3 > tier_connections(tier)
        return
    assert LEAST_POOL <= made.pool <= MOST_POOL
    assert made.pool * cpu * (most + 1) + 3 <= tier_connections(tier)


def test_server_environment() -> None:
    made = settings(cpu=2, memory="1Gi", max_instances=1)
    environment = made.server_environment(hosts=["a.test", "b.test"], origins=["https://a.test"])
    assert environment == {
        "DEFAULT_ARTIFACT_ROOT": "gs://my-project-mlflow/artifacts",
        "MLFLOW_SERVE_ARTIFACTS": "false",
        "MLFLOW_SERVER_ALLOWED_HOSTS": "a.test,b.test",
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "https://a.test",
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "4",
        "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "1",
        "MLFLOW_WORKERS": "2",
    }
