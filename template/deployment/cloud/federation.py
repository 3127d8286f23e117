"""Workload Identity Federation: the repository's pipeline deploys without a key.

Google Cloud trusts the tokens that GitHub or GitLab signs for the jobs of one repository's one branch; a
job changes its token for one of the deploy account, which has the roles that build and deploy need.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from deployment.cloud import provision, run
from deployment.cloud.gcloud import Gcloud, private_file
from deployment.cloud.provision import Item, ensure
from deployment.cloud.resources import Resources
from deployment.errors import DeploymentError

APIS = ("cloudresourcemanager", "iam", "iamcredentials", "sts")
PROVIDER = re.compile(
    r"projects/[0-9]+/locations/global/workloadIdentityPools/[a-z0-9-]+/providers/[a-z0-9-]+"
)
PROVIDER_VARIABLE = "WORKLOAD_IDENTITY_PROVIDER"
TOKEN_VARIABLE = "WORKLOAD_IDENTITY_TOKEN"  # noqa: S105  # .gitlab-ci.yml names it
IAM = "//iam.googleapis.com/"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Forge:
    """Who signs the jobs' tokens, and what a token says of its job."""

    issuer: str
    repository: str  # the claim with the repository's number, which no other ever gets
    branch: str  # the claim with refs/heads/BRANCH
    others: tuple[tuple[str, str], ...]  # further claims, with what they must be
    how: str  # to learn the number


FORGES = {
    # `push`: in pull_request_target and its like, strangers have a say in what runs on the default branch.
    "github": Forge(
        "https://token.actions.githubusercontent.com",
        "repository_id",
        "ref",
        (("event_name", "push"),),
        "`gh api repos/OWNER/NAME --jq .id` shows it",
    ),
    # `ref_path`, not `ref`: a merge request's `ref` is its source branch, which may be called anything.
    "gitlab": Forge(
        "https://gitlab.com",
        "project_id",
        "ref_path",
        (("ref_protected", "true"),),
        "the project's page shows it",
    ),
}


@dataclass(frozen=True)
class Trust:
    """Whose jobs may deploy: those of one repository's one branch.

    Raises:
        DeploymentError: there is no pipeline, or a value does not do.
    """

    ci: str
    repository: str
    branch: str = "main"
    issuer: str = ""

    def __post_init__(self) -> None:
        if self.ci not in FORGES:
            raise DeploymentError(f"ci is {self.ci!r} in invoke.yaml: give github or gitlab")
        if not re.fullmatch(r"[1-9][0-9]*", self.repository):
            raise DeploymentError(
                f"--repository-id is {self.repository!r}: give the repository's number; {self.forge.how}"
            )
        if not re.fullmatch(r"[A-Za-z0-9._/-]+", self.branch):
            raise DeploymentError(f"--branch is {self.branch!r}: give a branch's name, such as main")
        if not re.fullmatch(r"(https://[a-z0-9.-]+(:[0-9]+)?)?", self.issuer):
            raise DeploymentError(f"--issuer is {self.issuer!r}: give one such as https://gitlab.example.com")

    @property
    def forge(self) -> Forge:
        """GitHub or GitLab."""
        return FORGES[self.ci]

    @property
    def provider(self) -> dict[str, str]:
        """The flags that say whom the provider trusts."""
        claims = (
            (self.forge.repository, self.repository),
            (self.forge.branch, f"refs/heads/{self.branch}"),
            *self.forge.others,
        )
        return {
            "issuer-uri": self.issuer or self.forge.issuer,
            # The number, not `sub`: that is of any length, and Google takes 127 bytes.
            "attribute-mapping": f"google.subject=assertion.{self.forge.repository}",
            "attribute-condition": " && ".join(f"assertion.{name} == '{value}'" for name, value in claims),
        }


def account(resources: Resources) -> Item:
    """Return the deploy account."""
    return provision.account(resources, resources.deploy_account_id, f"{resources.settings.title}: deploys")


def pool(resources: Resources) -> Item:
    """Return the pool that the repository's jobs are identities of."""
    name, where = resources.pool, "--location=global"
    return Item(
        f"workload identity pool {name}",
        ("iam", "workload-identity-pools", "describe", name, where),
        ("iam", "workload-identity-pools", "create", name, where),
        (("iam", "workload-identity-pools", "delete", name, where),),
    )


def provider_argv(resources: Resources, verb: str, trust: Trust) -> list[str]:
    """Return the command that does `verb` with the provider: create-oidc, update-oidc or describe."""
    flags = [] if verb == "describe" else [f"--{name}={value}" for name, value in trust.provider.items()]
    return [
        *("iam", "workload-identity-pools", "providers", verb, trust.ci),
        *("--location=global", f"--workload-identity-pool={resources.pool}", *flags),
    ]


def grants(resources: Resources, number: str, trust: Trust) -> list[tuple[str, ...]]:
    """Return the commands that give the deploy account its roles, each on the least that will do.

    They are run one after the other: two at once on one policy lose each other.

    Args:
        resources: the settings and names.
        number: the project's number.
        trust: whose jobs may be the account.
    """
    settings, bucket = resources.settings, f"gs://{resources.build_bucket}"
    cloudbuild = settings.builder == "cloudbuild"
    in_project = ["run.developer", "logging.viewer"]
    # Cloud Build pushes by itself, but who deploys an image must be able to read it.
    in_registry = "artifactregistry.reader" if cloudbuild else "artifactregistry.writer"
    acts_as = [resources.service_account]
    on_bucket: list[str] = []
    if cloudbuild:
        in_project.append("cloudbuild.builds.editor")
        acts_as.append(resources.build_account)
        on_bucket = ["storage.objectUser"]
    member = f"--member=serviceAccount:{resources.deploy_account}"
    bind, accounts = "add-iam-policy-binding", ("iam", "service-accounts")
    subject = f"principal:{IAM}{resources.pool_name(number)}/subject/{trust.repository}"
    return [
        *(
            ("projects", bind, settings.google_project, member, f"--role=roles/{role}", "--condition=None")
            for role in in_project
        ),
        (
            *("artifacts", "repositories", bind, resources.repository, f"--location={settings.region}"),
            *(member, f"--role=roles/{in_registry}"),
        ),
        *(("storage", "buckets", bind, bucket, member, f"--role=roles/{role}") for role in on_bucket),
        *((*accounts, bind, email, member, "--role=roles/iam.serviceAccountUser") for email in acts_as),
        # Of a secret it learns which version is the newest, not what is in it.
        *(("secrets", bind, name, member, "--role=roles/secretmanager.viewer") for name in resources.secrets),
        (
            *(*accounts, bind, resources.deploy_account, f"--member={subject}"),
            "--role=roles/iam.workloadIdentityUser",
        ),
    ]


def federation(gcloud: Gcloud, resources: Resources, trust: Trust, say: Say) -> str:
    """Make what is missing, change what is not as asked, and return the provider's name.

    Raises:
        DeploymentError: gcloud refused something; run again when it is mended.
    """
    gcloud.run(["services", "enable", *(f"{name}.googleapis.com" for name in APIS)])
    ensure(gcloud, [account(resources), pool(resources)], say)
    _provider(gcloud, resources, trust, say)
    number = gcloud.run(run.number_argv(resources))
    for grant in grants(resources, number, trust):
        gcloud.run(grant)
    say("roles granted")
    return f"{resources.pool_name(number)}/providers/{trust.ci}"


def _provider(gcloud: Gcloud, resources: Resources, trust: Trust, say: Say) -> None:
    describe, what = provider_argv(resources, "describe", trust), f"provider {trust.ci}"
    if not gcloud.describes(describe):
        gcloud.run(provider_argv(resources, "create-oidc", trust))
        say(f"{what}: created")
        return
    found: dict[str, Any] = json.loads(gcloud.run([*describe, "--format=json"]))
    mapping = ",".join(f"{name}={value}" for name, value in found["attributeMapping"].items())
    values = found["oidc"]["issuerUri"], mapping, found.get("attributeCondition")
    if values == tuple(trust.provider.values()):
        say(f"{what}: here")
        return
    gcloud.run(provider_argv(resources, "update-oidc", trust))
    say(f"{what}: changed")


def credentials(provider: str, source: Mapping[str, Any]) -> str:
    """Return gcloud's credential configuration: where a job's token comes from, and who changes it."""
    return json.dumps(
        {
            "type": "external_account",
            "audience": f"{IAM}{provider}",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": "https://sts.googleapis.com/v1/token",
            "token_info_url": "https://sts.googleapis.com/v1/introspect",
            "credential_source": source,
        }
    )


def source(provider: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return where gcloud finds the job's token.

    GitHub's is valid for minutes: gcloud asks for another as often as it needs one. GitLab's is valid
    as long as the job runs, and comes in a variable; gcloud reads files only.

    Raises:
        DeploymentError: the environment is not of a job that may ask for a token.
    """
    url = environment.get("ACTIONS_ID_TOKEN_REQUEST_URL")
    if url:
        bearer = environment.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "")
        return {
            "url": f"{url}&audience={quote(f'https:{IAM}{provider}', safe='')}",
            "headers": {"Authorization": f"Bearer {bearer}"},
            "format": {"type": "json", "subject_token_field_name": "value"},
        }
    token = environment.get(TOKEN_VARIABLE)
    if not token:
        raise DeploymentError(
            f"no pipeline's job with a token: GitHub gives it by `permissions: id-token: write`, GitLab by "
            f"`id_tokens: {TOKEN_VARIABLE}`"
        )
    path = Path(tempfile.mkdtemp(prefix="mlflow-")) / "token"  # mode 0700; it ends with the job's container
    path.touch(mode=0o600)
    path.write_text(token, encoding="utf-8")
    return {"file": str(path)}


def sign_in(gcloud: Gcloud, resources: Resources, environment: Mapping[str, str]) -> None:
    """Sign gcloud in as the deploy account, by the token of the pipeline's job that this runs in.

    gcloud impersonates the account in each command, rather than having it in the configuration: so it
    makes identity tokens too, with no role for the account on itself.

    Raises:
        DeploymentError: this is no such job, or gcloud refused.
    """
    provider = environment.get(PROVIDER_VARIABLE, "")
    if not PROVIDER.fullmatch(provider):
        raise DeploymentError(
            f"{PROVIDER_VARIABLE} is {provider!r}: set the variable that `invoke federation` prints"
        )
    with private_file(credentials(provider, source(provider, environment))) as path:
        gcloud.run(["auth", "login", f"--cred-file={path}", "--brief"])
    gcloud.run(["config", "set", "auth/impersonate_service_account", resources.deploy_account])
