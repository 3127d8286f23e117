"""Who may enter: the list in invoke.yaml edited in place, and nobody let in who would not be."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from deployment.cloud import access
from deployment.errors import DeploymentError
from deployment.settings import Settings
from deployment.smoke import is_local, safe
from tests.test_settings import GOOD

TEXT = """\
# Ours.
deployment:
  service: mlflow
  allowed:
    # the team
    - "example.com"
    - ada@example.org # guest
  memory: 512Mi # enough
"""
NESTED = TEXT.replace('    - "', '  - "').replace("    - ada", "  - ada")
INLINE = TEXT.replace(
    '\n    # the team\n    - "example.com"\n    - ada@example.org', ' ["example.com", ada@example.org]'
)


@pytest.mark.parametrize("text", [TEXT, NESTED, INLINE], ids=["block", "not indented", "inline"])
@pytest.mark.parametrize(
    "allowed",
    [
        ["example.com", "ada@example.org", "example.net", "0x1.example.net"],
        ["example.com"],
        ["ada@example.org"],
        ["eve+mlflow@example.com"],
        ["example.com", "ada@example.org"],
    ],
)
def test_the_list_changes_and_nothing_else(text: str, allowed: list[str]) -> None:
    edited = access.edited(text, allowed)
    values = yaml.safe_load(edited)["deployment"]
    assert values["allowed"] == allowed
    assert {**values, "allowed": None} == {**yaml.safe_load(text)["deployment"], "allowed": None}
    kept = {line for line in text.splitlines() if "#" in line and "ada" not in line}
    assert kept <= set(edited.splitlines())
    if "ada@example.org" in allowed:
        assert "# guest" in edited


def test_the_same_list_is_the_same_text() -> None:
    assert access.edited(TEXT, ["example.com", "ada@example.org"]) == TEXT


def test_a_file_without_a_last_line_break(tmp_path: Path) -> None:
    text = 'deployment:\n  allowed:\n    - "example.com"'
    assert access.edited(text, ["example.com", "a.org"]) == f'{text}\n    - "a.org"\n'


def test_what_is_not_understood_is_left_to_the_user() -> None:
    text = "deployment:\n  allowed:\n    - >-\n      example.com\n"
    with pytest.raises(DeploymentError, match="edit it by hand"):
        access.edited(text, ["example.net"])


def test_the_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "invoke.yaml"
    file.write_text("old")
    file.chmod(0o640)
    access.write(file, "new")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("new", 0o640)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("email", "may"),
    [
        ("ann@example.com", True),
        ("Ann@EXAMPLE.com", True),
        ("ada@example.org", True),
        ("bob@example.org", False),
        ("ann@sub.example.com", False),
        ("ann@notexample.com", False),
    ],
)
def test_who_enters(email: str, may: bool) -> None:
    settings = replace(Settings.load(GOOD), allowed=("example.com", "ada@example.org"))
    assert access.enters(settings, email) is may


def test_addresses_that_a_token_may_be_sent_to() -> None:
    assert safe("https://mlflow.test/x?y") == "https://mlflow.test"
    assert safe("http://localhost:4180/") == "http://localhost:4180"
    for url in ("http://mlflow.test", "http://localhost.evil.test", "http://localhost@evil.test", "x"):
        assert not is_local(url)
        with pytest.raises(DeploymentError, match="give https://HOST"):
            safe(url)
