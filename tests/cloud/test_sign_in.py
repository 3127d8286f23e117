"""People at the deployed service: a browser, Google's sign-in, and who is turned away."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from emulator.apis.control import register_client
from tests.cloud.conftest import CLIENT_SECRET, SERVICE, USER, Cloud
from tests.test_browser import ARGUMENTS, PICTURES, chromium_path

pytestmark = pytest.mark.docker


@pytest.fixture
def page(deployed: Cloud) -> Iterator[Page]:
    """A browser whose whole world is the emulated Google Cloud."""
    client = json.loads(deployed.client.read_text())["web"]["client_id"]
    register_client(deployed.emulator.cloud, client, CLIENT_SECRET, [f"https://{SERVICE}/oauth2/callback"])
    PICTURES.mkdir(parents=True, exist_ok=True)
    arguments = [*ARGUMENTS, f"--proxy-server=http://127.0.0.1:{deployed.emulator.port}"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=arguments)
        # The emulator's authority is not among the browser's; only the emulator is reached.
        context = browser.new_context(ignore_https_errors=True, viewport={"width": 1280, "height": 800})
        yield context.new_page()
        browser.close()


def sign_in(page: Page, user: str) -> None:
    page.goto(f"https://{SERVICE}")
    assert page.url.startswith("https://accounts.google.com/")
    page.get_by_label("E-mail").fill(user)
    page.get_by_role("button", name="Next").click()


def test_a_person_signs_in_and_sees_mlflow(page: Page) -> None:
    sign_in(page, USER)
    expect(page.get_by_text("Experiments").first).to_be_visible()
    assert page.url.startswith(f"https://{SERVICE}/")
    (cookie,) = [c for c in page.context.cookies() if c.get("name") == "__Host-mlflow"]
    assert cookie.get("secure") and cookie.get("httpOnly") and cookie.get("sameSite") == "Lax"
    page.screenshot(path=PICTURES / "deployed.png")


def test_a_stranger_is_turned_away(page: Page) -> None:
    sign_in(page, "mallory@elsewhere.test")
    expect(page.get_by_role("heading")).to_have_text("This account may not enter")
    answer = page.goto(f"https://{SERVICE}/api/2.0/mlflow/experiments/search")
    assert answer is not None
    assert answer.status == 401
