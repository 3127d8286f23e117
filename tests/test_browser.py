"""A person with a browser: signs in, sees the experiment, is turned away, signs out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.local import Local

pytestmark = pytest.mark.docker
# Nothing of the browser's own goes out, and no name but this machine's resolves.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
]
PICTURES = Path(__file__).parent.parent / "build/pictures"


def chromium_path() -> str:
    """Return the machine's own Chromium."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "chromium or google-chrome is needed: ./setup nox installs it on Debian"
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests in here."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_path(), args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh browser profile; no page may raise an error in its scripts."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


def sign_in(page: Page, local: Local, user: str) -> None:
    """Open the service and sign in at the provider's page as `user`."""
    page.goto(local.url)
    assert page.url.startswith(f"{local.issuer}/oauth2/authorize")
    page.get_by_placeholder("sub").fill(user)
    page.get_by_role("button", name="Authorize").click()


def test_a_person_signs_in_and_sees_what_a_program_logged(page: Page, local: Local) -> None:
    command = [sys.executable, "examples/train.py"]
    subprocess.run(command, cwd=local.folder, env=local.environment(), check=True, capture_output=True)
    ((experiment,),) = local.sql("select experiment_id from experiments where name = 'diabetes'")

    sign_in(page, local, "alice@example.com")
    expect(page).to_have_url(f"{local.url}/")
    page.goto(f"{local.url}/#/experiments")
    expect(page.get_by_role("link", name="diabetes")).to_be_visible()
    page.goto(f"{local.url}/#/models/diabetes-elastic-net")
    expect(page.get_by_text("champion").first).to_be_visible()
    page.set_viewport_size({"width": 1600, "height": 900})
    page.goto(f"{local.url}/#/experiments/{experiment}/runs?compareRunsMode=CHART")
    expect(page.get_by_text("rmse").first).to_be_visible()
    expect(page.get_by_text("3 matching runs")).to_be_visible()
    page.screenshot(path=str(PICTURES / "runs.png"))


def test_the_ui_can_write(page: Page, local: Local) -> None:
    """A POST from the page itself: MLflow must know the page's origin."""
    sign_in(page, local, "bob@example.com")
    expect(page).to_have_url(f"{local.url}/")
    script = """async name => {
        const answer = await fetch("ajax-api/2.0/mlflow/experiments/create", {
            method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({name})});
        return answer.status;
    }"""
    assert page.evaluate(script, "made by the page") == 200


def test_the_page_asks_at_once_for_what_its_first_view_needs(page: Page, local: Local) -> None:
    """By links, each of them used; and nothing of the view is asked for later."""
    sign_in(page, local, "alice@example.com")
    page.goto("about:blank")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{local.url}/#/experiments")
    expect(page.get_by_role("link", name="Default")).to_be_visible()
    linked = page.eval_on_selector_all("link[rel=preload]", "links => links.map(link => link.href)")
    assert f"{local.url}/ajax-api/3.0/mlflow/server-info" in linked
    assert len(linked) > 1
    assert [url for url in linked if asked.count(url) != 1] == []
    assert [url for url in asked if ".chunk." in url and url not in linked] == []


def test_the_cookie_is_bound_to_the_host_and_out_of_reach(page: Page, local: Local) -> None:
    sign_in(page, local, "alice@example.com")
    expect(page).to_have_url(f"{local.url}/")
    (cookie,) = page.context.cookies()
    assert cookie["name"] == "__Host-mlflow"
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Lax")
    assert page.evaluate("document.cookie") == ""


def test_a_person_of_another_domain_is_refused_readably(page: Page, local: Local) -> None:
    sign_in(page, local, "mallory@elsewhere.test")
    expect(page.get_by_role("heading")).to_have_text("This account may not enter")
    expect(page.get_by_text("Ask whoever runs this MLflow to add your address")).to_be_visible()
    page.screenshot(path=str(PICTURES / "refused.png"))
    assert not [cookie for cookie in page.context.cookies() if not cookie["name"].endswith("_csrf")]
    page.get_by_role("button", name="Sign in with another account").click()
    expect(page).to_have_url(re.compile(re.escape(f"{local.issuer}/oauth2/authorize")))
    page.get_by_role("button", name="alice@example.com").click()
    expect(page).to_have_url(f"{local.url}/")


def test_sign_out(page: Page, local: Local) -> None:
    sign_in(page, local, "alice@example.com")
    expect(page).to_have_url(f"{local.url}/")
    page.goto(f"{local.url}/oauth2/sign_out")
    assert "__Host-mlflow" not in {cookie["name"] for cookie in page.context.cookies()}
    page.goto(local.url)
    assert page.url.startswith(f"{local.issuer}/oauth2/authorize")


def test_the_log_says_who_asked(page: Page, local: Local) -> None:
    sign_in(page, local, "bob@example.com")
    expect(page).to_have_url(f"{local.url}/")
    requests = [json.loads(line) for line in local.log() if '"httpRequest"' in line]
    asked = {(entry["user"], entry["httpRequest"]["requestUrl"]) for entry in requests}
    assert ("bob@example.com", "/") in asked
