"""A person's browser at a service that is just starting: Chromium, on a link of 20 Mbit/s and 40 ms."""

from __future__ import annotations

import asyncio
import os
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, Page, TimeoutError, sync_playwright

from benchmarks.stage import CLIENT_CPU, SCRATCH, Stage
from tests.test_browser import ARGUMENTS, chromium_path

LINK = {"offline": False, "latency": 40, "downloadThroughput": 20e6 / 8, "uploadThroughput": 20e6 / 8}
EXPERIMENT = "the first experiment"
PATIENCE = 90_000  # ms
DISCOVERY = "/.well-known/openid-configuration"  # of the provider, whose port is the service's next
STEP = 0.005  # seconds between two looks whether the service is there


class FrontDoor:
    """Takes connections at once, and hands them on when the service is there, as Cloud Run's does."""

    def __init__(self, port: int) -> None:
        """Listen on a port of this machine's loopback; `port` is where the service will be."""
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = int(self._server.sockets[0].getsockname()[1])
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End; open connections are dropped."""
        self._loop.call_soon_threadsafe(self._end)
        self._thread.join()

    def _end(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.call_soon(self._loop.stop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not await asyncio.to_thread(self._there):
            await asyncio.sleep(STEP)
        answer, request = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(_pipe(reader, request), _pipe(answer, writer))

    def _there(self) -> bool:
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{self._target}/ping", timeout=5) as got,
        ):
            return bool(got.status == 200)  # noqa: PLR2004
        return False


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()


class Visit:
    """A page that is about to be opened, with an empty cache and a session."""

    def __init__(self, page: Page, url: str) -> None:
        """Throttle the page's link and count what comes over it."""
        self.received = 0
        self._page, self._url = page, url
        session = page.context.new_cdp_session(page)
        session.send("Network.enable")
        session.send("Network.emulateNetworkConditions", LINK)
        session.on("Network.loadingFinished", self._count)

    def visit(self) -> None:
        """Open the list of experiments, and return when it is to be seen; as a person, load it once more.

        A worker of the recipe's may die while it starts: then parts of the page are missing for good.
        """
        self._page.goto(f"{self._url}/#/experiments", timeout=PATIENCE)
        link = self._page.get_by_role("link", name=EXPERIMENT)
        try:
            link.wait_for(timeout=PATIENCE)
        except TimeoutError:
            self._page.reload(timeout=PATIENCE)
            link.wait_for(timeout=PATIENCE)

    @contextmanager
    def another(self) -> Iterator[Visit]:
        """Hand out a page of the same person's with an empty cache."""
        browser = self._page.context.browser
        assert browser  # noqa: S101  # a page of new_context() has one
        state = self._page.context.storage_state()
        context = browser.new_context(storage_state=state)
        yield Visit(context.new_page(), self._url)
        context.close()

    def _count(self, event: dict[str, Any]) -> None:
        self.received += int(event["encodedDataLength"])


@contextmanager
def opened(url: str, state: Path | None) -> Iterator[Visit]:
    """Hand out a page of a browser that is in use; its way to the service is a front door's.

    It has shown another page before: a browser's own start is no part of the service's.
    """
    with _context(url, state) as context:
        page = context.new_page()
        page.goto(f"http://localhost:{_port(url) + 1}{DISCOVERY}")
        page.close()
        yield Visit(context.new_page(), url)


def _port(url: str) -> int:
    return urlsplit(url).port or 443


@contextmanager
def _context(url: str, state: Path | None) -> Iterator[BrowserContext]:
    port = _port(url)
    door = FrontDoor(port)
    # The provider is where the session begins.
    rules = f"MAP localhost:{port} 127.0.0.1:{door.port}, MAP localhost:{port + 1} 127.0.0.1:{port + 1}"
    arguments = [argument for argument in ARGUMENTS if not argument.startswith("--host-resolver-rules")]
    arguments.append(f"--host-resolver-rules={rules}, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    # A browser is not on the server's machine: it has what is free of both CPUs.
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_path(), args=arguments)
        yield chromium.new_context(storage_state=state)
        chromium.close()
    door.close()
    os.sched_setaffinity(0, {int(CLIENT_CPU)})


@cache
def session(stage: Stage) -> Path:
    """Sign a test user in, once; return the file of the session, which outlives the service's restarts."""
    file = SCRATCH / "session.json"
    subject = stage.service
    with _context(stage.layout.url, None) as context, stage.running(subject) as container:
        stage.answer(container)
        page = context.new_page()
        page.goto(stage.layout.url)
        page.get_by_placeholder("sub").fill(stage.layout.users[0])
        page.get_by_role("button", name="Authorize").click()
        page.wait_for_url(f"{stage.layout.url}/**")
        answer = context.request.post(
            f"{stage.layout.url}/api/2.0/mlflow/experiments/create", data={"name": EXPERIMENT}
        )
        if not answer.ok:
            raise RuntimeError(answer.text())
        context.storage_state(path=file)
    return file
