"""Workload Identity Federation: a pipeline's token becomes a service account's, or is refused."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest

from emulator import Emulator
from emulator.apis.forges import GITHUB, GITLAB, github_job, job_token
from emulator.identity import new_key
from tests.emulator.conftest import NUMBER, PROJECT, Gcloud, Web

POOL = f"projects/{NUMBER}/locations/global/workloadIdentityPools/forge"
MEMBER = f"principalSet://iam.googleapis.com/{POOL}/attribute.repository/octo-org/octo-repo"
PROVIDER = f"{POOL}/providers/github"
AUDIENCE = f"https://iam.googleapis.com/{PROVIDER}"
ACCOUNT = f"deployer@{PROJECT}.iam.gserviceaccount.com"
POOLS = ("iam", "workload-identity-pools")
IN_POOL = ("--location=global", "--workload-identity-pool=forge")
BINDING = ("iam", "service-accounts", "add-iam-policy-binding", ACCOUNT)
USER = "--role=roles/iam.workloadIdentityUser"
Exchange = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def _provider(gcloud: Gcloud) -> None:
    """A provider that trusts one branch of one repository, and an account for it."""
    gcloud(*POOLS, "create", "forge", "--location=global")
    gcloud(
        *(*POOLS, "providers", "create-oidc", "github", *IN_POOL, f"--issuer-uri={GITHUB}"),
        "--attribute-mapping=google.subject=assertion.sub,attribute.repository=assertion.repository",
        "--attribute-condition=assertion.repository_id == '74' && assertion.ref == 'refs/heads/main'",
    )
    gcloud("iam", "service-accounts", "create", "deployer")
    role = "--role=roles/resourcemanager.projectIamAdmin"
    member = f"--member=serviceAccount:{ACCOUNT}"
    gcloud("projects", "add-iam-policy-binding", PROJECT, member, role, "--condition=None")


@pytest.fixture
def exchange(web: Web) -> Exchange:
    """What the token service answers to a token."""

    def ask(token: str, audience: str = f"//iam.googleapis.com/{PROVIDER}") -> dict[str, Any]:
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "audience": audience,
            "scope": "https://www.googleapis.com/auth/cloud-platform",
            "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "subject_token": token,
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        }
        answer = web("https://sts.googleapis.com/v1/token", body=urlencode(form).encode())
        return {"status": answer.status, **json.loads(answer.text)}

    return ask


def signed(
    gcloud: Gcloud, home: Path, configuration: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run gcloud with nothing but a credential configuration."""
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME")},
        **gcloud.emulator.environment(),
        "CLOUDSDK_CONFIG": str(home),
        "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE": str(configuration),
    }
    return subprocess.run(
        ["gcloud", *arguments], env=environment, text=True, capture_output=True, check=False
    )


def test_gcloud_with_a_token_in_a_file(gcloud: Gcloud, emulator: Emulator, tmp_path: Path) -> None:
    """First without the grant on the account, then with it; identity tokens by impersonation alone."""
    token, direct, through = (tmp_path / name for name in ("token", "direct.json", "through.json"))
    token.write_text(job_token(emulator.cloud, GITHUB, AUDIENCE))
    make = (*POOLS, "create-cred-config", PROVIDER, f"--credential-source-file={token}")
    gcloud(*make, f"--output-file={direct}")
    gcloud(*make, f"--output-file={through}", f"--service-account={ACCOUNT}")
    describe = ("projects", "describe", PROJECT, "--format=value(projectNumber)")
    refused = signed(gcloud, tmp_path / "1", through, *describe)
    assert refused.returncode == 1
    assert "iam.serviceAccounts.getAccessToken" in refused.stderr
    gcloud(*BINDING, USER, f"--member={MEMBER}")
    done = signed(gcloud, tmp_path / "1", through, *describe)
    assert done.stdout.strip() == NUMBER, done.stderr
    assert emulator.cloud.calls[-1]["principal"] == f"serviceAccount:{ACCOUNT}"

    tokens = ("auth", "print-identity-token")
    impersonate = f"--impersonate-service-account={ACCOUNT}"
    wanted = (*tokens, impersonate, "--audiences=https://x.test", "--include-email")
    assert "No identity token can be obtained" in signed(gcloud, tmp_path / "1", through, *tokens).stderr
    # The account is not allowed to be itself: only who comes straight from the pool may ask.
    assert "Failed to impersonate" in signed(gcloud, tmp_path / "1", through, *wanted).stderr
    done = signed(gcloud, tmp_path / "2", direct, *wanted)
    claims = emulator.cloud.identity.verified(done.stdout.strip(), ["https://x.test"])
    assert (claims["email"], claims["aud"]) == (ACCOUNT, "https://x.test")


def test_gcloud_with_a_token_that_a_job_of_github_asks_for(
    gcloud: Gcloud, emulator: Emulator, tmp_path: Path
) -> None:
    job = github_job(emulator.cloud)
    configuration = tmp_path / "configuration.json"
    gcloud(
        *(*POOLS, "create-cred-config", PROVIDER, f"--service-account={ACCOUNT}"),
        f"--credential-source-url={job['ACTIONS_ID_TOKEN_REQUEST_URL']}&audience={AUDIENCE}",
        f"--credential-source-headers=Authorization=Bearer {job['ACTIONS_ID_TOKEN_REQUEST_TOKEN']}",
        *("--credential-source-type=json", "--credential-source-field-name=value"),
        f"--output-file={configuration}",
    )
    gcloud(*BINDING, USER, f"--member={MEMBER}")
    done = signed(gcloud, tmp_path, configuration, "projects", "describe", PROJECT)
    assert done.returncode == 0, done.stderr


def test_who_it_is(exchange: Exchange, emulator: Emulator, web: Web) -> None:
    token = exchange(job_token(emulator.cloud, GITHUB, AUDIENCE))["access_token"]
    answer = web("https://sts.googleapis.com/v1/introspect", body=urlencode({"token": token}).encode())
    subject = f"principal://iam.googleapis.com/{POOL}/subject/repo:octo-org/octo-repo:ref:refs/heads/main"
    assert json.loads(answer.text)["username"] == subject
    assert emulator.cloud.identity.principal(token).split() == [
        subject,
        f"principalSet://iam.googleapis.com/{POOL}/*",
        MEMBER,
    ]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"repository_id": "75"}, "rejected by the attribute condition"),
    ({"repository": "octo-org/other", "repository_id": "76"}, "rejected by the attribute condition"),
    ({"repository_id": 74}, "rejected by the attribute condition"),
    ({"ref": "refs/heads/feature"}, "rejected by the attribute condition"),
    ({"aud": "https://example.com"}, "does not match the expected audience"),
    ({"iss": GITLAB}, "Invalid issuer"),
    ({"iat": int(time.time()) - 4000, "exp": int(time.time()) - 10}, "is stale to sign-in"),
    ({"exp": int(time.time()) + 49 * 3600}, "times are out of bounds"),
    ({"sub": "x" * 128}, "exceeds the 127 bytes limit"),
    ({"sub": ""}, "google.subject is no string"),
]


@pytest.mark.parametrize(("claims", "words"), REFUSED)
def test_a_token_that_does_not_do(
    claims: dict[str, Any], words: str, exchange: Exchange, emulator: Emulator
) -> None:
    answer = exchange(job_token(emulator.cloud, GITHUB, AUDIENCE, **claims))
    assert answer["status"] == 400
    assert words in answer["error_description"]


def test_a_forged_token_is_refused(exchange: Exchange, emulator: Emulator) -> None:
    good = job_token(emulator.cloud, GITHUB, AUDIENCE)
    claims = jwt.decode(good, options={"verify_signature": False})
    header = {"kid": jwt.get_unverified_header(good)["kid"]}
    for forged in (
        jwt.encode(claims, new_key(), "RS256", headers=header),
        jwt.encode(claims, new_key(), "RS256", headers={"kid": "another"}),
        jwt.encode(claims, "", "none", headers=header),
        jwt.encode(claims, "k" * 32, "HS256", headers=header),
        good[:-8] + "AAAAAAAA",
        job_token(emulator.cloud, GITLAB, AUDIENCE, **claims),
        "no.token.atall",
        "",
    ):
        answer = exchange(forged)
        assert (answer["status"], answer["error"]) == (400, "invalid_grant"), answer


@pytest.mark.parametrize(
    "provider", [PROVIDER.replace("github", "gitlab"), PROVIDER.replace(NUMBER, PROJECT)]
)
def test_a_provider_that_is_not_there(
    provider: str, exchange: Callable[..., Any], emulator: Emulator
) -> None:
    answer = exchange(job_token(emulator.cloud, GITHUB, AUDIENCE), f"//iam.googleapis.com/{provider}")
    assert answer["error"] == "invalid_target"


SUBJECT = "google.subject=assertion.sub"


@pytest.mark.parametrize(
    ("mapping", "condition", "words"),
    [
        (SUBJECT, "assertion.ref.startsWith('x')", "does not model the attribute condition"),
        (SUBJECT, "assertion.ref == 'a' || true", "does not model the attribute condition"),
        ("google.subject='a'+assertion.sub", "assertion.ref == 'a'", "does not model the attribute mapping"),
        ("attribute.ref=assertion.ref", "assertion.ref == 'a'", "must include google.subject"),
        (SUBJECT, "", "must reference one of the provider's claims"),
    ],
)
def test_a_provider_that_is_not_taken(mapping: str, condition: str, words: str, gcloud: Gcloud) -> None:
    create = (*POOLS, "providers", "create-oidc", "bad", *IN_POOL, f"--issuer-uri={GITHUB}")
    flags = [f"--attribute-mapping={mapping}", *([f"--attribute-condition={condition}"] if condition else [])]
    assert words in gcloud.refused(*create, *flags)


def test_a_pool_that_is_not_there_is_no_member(gcloud: Gcloud) -> None:
    member = f"--member={MEMBER.replace('/forge/', '/other/')}"
    assert "Identity Pool does not exist" in gcloud.refused(*BINDING, USER, member)


def test_the_control_makes_tokens_too(exchange: Exchange, emulator: Emulator) -> None:
    url = f"http://127.0.0.1:{emulator.port}/job-tokens"
    for ref, status in (("refs/heads/main", 200), ("refs/heads/x", 400)):
        asked = {"issuer": GITHUB, "audience": AUDIENCE, "claims": {"ref": ref}}
        with urllib.request.urlopen(url, json.dumps(asked).encode()) as answer:
            assert exchange(json.load(answer)["token"])["status"] == status
