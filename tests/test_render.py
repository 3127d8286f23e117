"""What the template renders to, over the matrix of its own choices."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml
from deployment import rules
from deployment.cloud.resources import Resources
from deployment.settings import Settings, SettingsError

from tests.conftest import ANSWERS, QUESTIONS, ROOT, Render, render_to

# One answer changed at a time: every choice of every question, as copier.yml names them.
MATRIX = [
    (name, value)
    for name, question in QUESTIONS.items()
    for value in (
        question["choices"].values()
        if isinstance(question.get("choices"), dict)
        else question.get("choices", [])
    )
]
# What a choice needs beside it
NEEDS: dict[Any, dict[str, Any]] = {
    ("identity_provider", "oidc"): {"oidc_issuer_url": "https://gitlab.com"},
    ("cpu", 2): {"memory": "1Gi", "database_tier": "db-g1-small"},
    ("cpu", 4): {"memory": "2Gi", "database_tier": "db-custom-1-3840"},
    ("cpu", 6): {"memory": "4Gi", "database_tier": "db-custom-2-7680"},
    ("cpu", 8): {"memory": "4Gi", "database_tier": "db-custom-2-7680"},
}


def check(folder: Path) -> dict[str, Any]:
    """Parse all that was rendered, check the settings, and return them."""
    for path in folder.rglob("*"):
        assert "{{" not in path.name and ".jinja" not in path.name
        if path.suffix in (".yml", ".yaml"):
            yaml.safe_load(path.read_text())
        if path.suffix == ".toml":
            tomllib.loads(path.read_text())
        if path.suffix == ".sh":
            subprocess.run(["bash", "-n", str(path)], check=True)
    values = yaml.safe_load((folder / "invoke.yaml").read_text())["deployment"]
    Settings.load(values)
    return dict(values)


@pytest.mark.parametrize(("name", "value"), MATRIX)
def test_every_choice_renders_a_valid_project(name: str, value: object, render: Render) -> None:
    folder = render(**{name: value}, **NEEDS.get((name, value), {}))
    values = check(folder)
    assert values[name] == value


@pytest.mark.parametrize("answers", ANSWERS)
def test_named_answers_render_a_valid_project(answers: str, render: Render) -> None:
    folder = render(answers)
    values = check(folder)
    pipelines = [Resources(Settings.load(values)).deploy_account]
    assert (values["allowed"][-1:] == pipelines) == (values["ci"] != "none")
    for name, value in ANSWERS[answers].items():
        if name == "allowed":
            people = value.replace(",", " ").split()
            assert [entry for entry in values["allowed"] if entry not in pipelines] == people
        else:
            assert values[name] == value
    title = ANSWERS[answers].get("title", "MLflow")
    assert (folder / "README.md").read_text().startswith(f"# {title}\n")


@pytest.mark.parametrize(
    ("ci", "files"),
    [
        ("none", set()),
        ("github", {".github/workflows/checks.yml"}),
        ("gitlab", {".gitlab-ci.yml"}),
    ],
)
def test_pipeline_only_if_asked_for(ci: str, files: set[str], render: Render) -> None:
    folder = render(ci=ci)
    found = {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and (".github" in path.parts or path.name == ".gitlab-ci.yml")
    }
    assert found == files


def test_pipelines_deploy_the_default_branch_alone_one_at_a_time(tmp_path: Path) -> None:
    github = yaml.safe_load(
        (render_to(tmp_path / "1", ci="github") / ".github/workflows/checks.yml").read_text()
    )
    deploy = github["jobs"]["deploy"]
    assert github[True] == {"pull_request": None, "push": {"branches": ["main"]}}  # YAML's `on` is True
    assert deploy["if"] == "github.event_name == 'push' && vars.WORKLOAD_IDENTITY_PROVIDER != ''"
    assert deploy["needs"] == "checks"
    assert deploy["concurrency"] == {"group": "deploy", "cancel-in-progress": False}
    assert github["permissions"] == {}
    assert github["jobs"]["checks"]["permissions"] == {"contents": "read"}
    uses = [step["uses"] for job in github["jobs"].values() for step in job["steps"] if "uses" in step]
    assert len(set(uses)) == 2
    deploy = yaml.safe_load((render_to(tmp_path / "2", ci="gitlab") / ".gitlab-ci.yml").read_text())["deploy"]
    assert deploy["rules"] == [
        {"if": "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH && $WORKLOAD_IDENTITY_PROVIDER"}
    ]
    assert (deploy["needs"], deploy["resource_group"]) == (["checks"], "deploy")


# Every refusal: the answer, what else it needs, words of the reason. Both the question and, for who
# edits invoke.yaml, the settings refuse it.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"service": "Mlflow"}, "lower-case"),
    ({"service": "m"}, "2 to 26"),
    ({"service": "a" * 27}, "2 to 26"),
    ({"service": "-a"}, "lower-case"),
    ({"service": "a-"}, "lower-case"),
    ({"service": "my-google"}, "google"),
    ({"google_project": "My Project"}, "project"),
    ({"google_project": "123456"}, "project"),
    ({"region": "Belgium"}, "europe-west1"),
    ({"allowed": "*"}, "everybody"),
    ({"allowed": "example.com, *"}, "everybody"),
    ({"allowed": "*.example.com"}, "everybody"),
    ({"allowed": " , "}, "obody could sign in"),
    ({"allowed": "example"}, "a domain such as"),
    ({"allowed": "example.com, bad@"}, "an address"),
    ({"allowed": "a@b@example.com"}, "address"),
    ({"identity_provider": "oidc", "oidc_issuer_url": "http://gitlab.com"}, "https://"),
    ({"identity_provider": "oidc", "oidc_issuer_url": ""}, "https://"),
    ({"identity_provider": "oidc", "oidc_issuer_url": "https://x.test/?a=b"}, "https://"),
    *(
        ({"identity_provider": "oidc", "oidc_issuer_url": f"https://{issuer}"}, "your own tenant's")
        for issuer in (
            "login.microsoftonline.com/common/v2.0",
            "login.microsoftonline.com/organizations/v2.0",
            "login.microsoftonline.com/consumers/v2.0",
            "login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0",
            "login.microsoftonline.com/contoso.onmicrosoft.com/v2.0",
            "login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47",
            "LOGIN.microsoftonline.com/{tenantid}/v2.0",
            "login.microsoftonline.us/common/v2.0",
            "sts.windows.net/72f988bf-86f1-41af-91ab-2d7cd011db47/",
        )
    ),
    ({"memory": "511Mi"}, "512Mi"),
    ({"memory": "512M"}, "Mi or Gi"),
    ({"memory": "5Gi"}, "4096Mi"),
    ({"cpu": 4, "memory": "1Gi", "max_instances": 1}, "2048Mi"),
    ({"max_instances": 0}, "at least 1"),
    ({"max_instances": 1, "min_instances": 2}, "at least 1"),
    ({"max_instances": 5}, "27 connections"),
    ({"max_instances": 100, "database_tier": "db-custom-2-7680"}, "407 connections"),
    *(({"allowed": domain}, "anybody can open an account") for domain in sorted(rules.PUBLIC_MAIL_DOMAINS)),
]


@pytest.mark.parametrize(("answers", "words"), REFUSED)
def test_refused_by_the_question_with_the_reason(
    answers: dict[str, Any], words: str, render: Render, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="Validation error") as caught:
        render(**answers)
    assert words.lower() in " ".join(str(caught.value).split()).lower()
    assert not (tmp_path / "project").exists()


@pytest.mark.parametrize(("answers", "words"), REFUSED)
def test_refused_by_the_settings_too(answers: dict[str, Any], words: str, project: Path) -> None:
    values = yaml.safe_load((project / "invoke.yaml").read_text())["deployment"]
    if "allowed" in answers:
        answers = {"allowed": answers["allowed"].replace(",", " ").split()}
    with pytest.raises(SettingsError) as caught:
        Settings.load({**values, **answers})
    assert words.lower() in str(caught.value).lower()


@pytest.mark.parametrize("name", [name for name, question in QUESTIONS.items() if "choices" in question])
def test_what_is_no_choice_is_refused(name: str, render: Render) -> None:
    with pytest.raises((ValueError, copier.errors.CopierError)):
        render(**{name: 77 if QUESTIONS[name]["type"] == "int" else "nonsense"})


def test_the_questions_tables_are_the_settings_own() -> None:
    tables = yaml.safe_load((ROOT / "copier.yml").read_text())
    assert set(tables["public_mail_domains"]["default"]) == rules.PUBLIC_MAIL_DOMAINS
    assert tables["least_memory"]["default"] == rules.LEAST_MEMORY
    assert tables["most_memory"]["default"] == rules.MOST_MEMORY
    connections = tables["tier_connections"]["default"]
    assert set(connections) == set(QUESTIONS["database_tier"]["choices"].values())
    assert connections == {tier: rules.tier_connections(tier) for tier in connections}
    for label, tier in QUESTIONS["database_tier"]["choices"].items():
        assert f" {connections[tier]} connections" in label


def test_every_question_says_its_consequence() -> None:
    for name, question in QUESTIONS.items():
        assert question.get("help"), name
        assert "default" in question, name


def test_nothing_needs_trust() -> None:
    settings = yaml.safe_load((ROOT / "copier.yml").read_text())
    assert not {"_tasks", "_migrations", "_jinja_extensions"} & set(settings)


def test_no_secret_is_asked_or_written(project: Path) -> None:
    assert not any(question.get("secret") for question in QUESTIONS.values())
    words = ("secret", "password", "token", "passphrase")
    answers = yaml.safe_load((project / ".copier-answers.yml").read_text())
    assert not [name for name in (*QUESTIONS, *answers) if any(word in name for word in words)]


def test_an_override_that_is_no_question_is_refused(render: Render) -> None:
    with pytest.raises(AssertionError, match="no questions"):
        render(regoin="x")


def test_the_messages_name_the_next_commands(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "copier", "copy", "--defaults", "--vcs-ref", "HEAD", str(ROOT)]
    done = subprocess.run([*command, str(tmp_path / "x")], capture_output=True, text=True, check=True)
    assert "uv run invoke local-up" in done.stderr + done.stdout
    assert f"cd {tmp_path / 'x'}" in done.stderr + done.stdout


# The generated project's own checks -----------------------------------------------------------------


def commands(folder: Path) -> list[str]:
    """Return what the rendered pipeline runs."""
    github, gitlab = folder / ".github/workflows/checks.yml", folder / ".gitlab-ci.yml"
    if github.exists():
        steps = yaml.safe_load(github.read_text())["jobs"]["checks"]["steps"]
        return [step["run"] for step in steps if "run" in step]
    return list(yaml.safe_load(gitlab.read_text())["checks"]["script"])


@pytest.mark.parametrize("ci", ["github", "gitlab"])
def test_what_the_pipeline_runs_passes(ci: str, render: Render) -> None:
    folder = render(ci=ci)
    needing_docker = "uv run pytest -m stack"  # run in tests/test_variants.py
    found = [command for command in commands(folder) if command != needing_docker]
    assert "uv run pytest" in found
    if ci == "gitlab":  # the same commands: one run will do
        assert found == commands(render_to(folder / "x", ci="github"))[:-1]
        return
    # In an environment of its own, as uv makes one for a user; the checks' has MLflow in it.
    own = {name: value for name, value in os.environ.items() if name != "UV_PROJECT_ENVIRONMENT"}
    for command in [*found, "uv run ruff format --check ."]:
        done = subprocess.run(
            command.split(), cwd=folder, env=own, capture_output=True, text=True, timeout=250
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("answers", ANSWERS)
def test_own_checks_of_what_is_templated_pass(answers: str, render: Render) -> None:
    command = [sys.executable, "-m", "pytest", "--quiet", "tests/test_settings.py", "tests/test_proxy.py"]
    done = subprocess.run(command, cwd=render(answers), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_uv_runs_the_tasks_with_nothing_but_the_projects_own_dependencies(project: Path) -> None:
    done = subprocess.run(
        ["uv", "run", "--quiet", "--no-dev", "invoke", "--list"], cwd=project, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "local-up" in done.stdout


def test_pip_does_too(project: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(project, tmp_path / "project", ignore=shutil.ignore_patterns(".venv"))
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    bin_folder = tmp_path / "venv/bin"
    for command in (["pip", "install", "--quiet", "."], ["invoke", "--list"]):
        done = subprocess.run(
            [str(bin_folder / command[0]), *command[1:]], cwd=copy, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert "local-up" in done.stdout


# Update ----------------------------------------------------------------------------------------------


def test_update_from_a_tagged_state_keeps_a_users_edits(tmp_path: Path) -> None:
    def git(*arguments: str, folder: Path) -> None:
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com", *arguments]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)

    template = tmp_path / "template"
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).exists():
            target = template / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
            target.chmod((ROOT / name).stat().st_mode)
    git("init", "--quiet", folder=template)
    git("add", "--all", folder=template)
    git("commit", "--quiet", "--message", "one", folder=template)
    git("tag", "1.0.0", folder=template)

    project = tmp_path / "project"
    copier.run_copy(str(template), project, defaults=True, quiet=True, data={"region": "us-east1"})
    git("init", "--quiet", folder=project)
    (project / "own_tasks.py").write_text('"""Ours."""\n')
    settings = project / "invoke.yaml"
    settings.write_text(settings.read_text().replace("max_instances: 3", "max_instances: 2"))
    example = project / "examples/train.py"
    example.write_text("print('ours')\n")
    git("add", "--all", folder=project)
    git("commit", "--quiet", "--message", "ours", folder=project)

    start = template / "template/start.sh"
    start.write_text(start.read_text() + "# a later version\n")
    own = template / "template/own_tasks.py"
    own.write_text('"""The template\'s."""\n')
    git("commit", "--quiet", "--all", "--message", "two", folder=template)
    git("tag", "1.1.0", folder=template)
    copier.run_update(project, defaults=True, quiet=True, overwrite=True)

    assert (project / "start.sh").read_text().endswith("# a later version\n")
    assert (project / "own_tasks.py").read_text() == '"""Ours."""\n'
    assert example.read_text() == "print('ours')\n"
    assert "max_instances: 2" in settings.read_text()
    assert "region: us-east1" in settings.read_text()
    assert yaml.safe_load((project / ".copier-answers.yml").read_text())["_commit"] == "1.1.0"
    check(project)
