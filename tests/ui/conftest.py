"""A browser for the tests of the page, and what went wrong in it."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any, Self

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from tests.ui.fake import Fake, serving

WAIT_MS = 10_000
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
LISTEN = """addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));"""

ASK = "document.dispatchEvent(new Event('visibilitychange'))"
"""Lets a page ask at once, as after its tab was hidden, and not after two seconds."""

OpenPage = Callable[..., Page]
ROOT = Path(__file__).parents[2]


class Program:
    """`tests.ui.NAME FOLDER` by the Python of gatepass: a line of its input is a command, one of its output a result.

    `first` is the result that it begins with.
    """

    def __init__(self, name: str, folder: Path) -> None:
        command = [str(Path(os.environ["GATEPASS"]).parent / "python"), "-m", f"tests.ui.{name}", str(folder)]
        self._process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, cwd=ROOT)
        self.first = self._result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # it ends with its input

    def do(self, command: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._result()

    def _result(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=WAIT_MS)
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=os.environ["CHROMIUM"], args=[OFFLINE]) as browser,
    ):
        yield browser


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def url(fake: Fake) -> Iterator[str]:
    with serving(fake) as url:
        yield url


@pytest.fixture
def faults() -> list[str]:
    """What the browser reported: its console, exceptions, violations of the policy, requests to other origins."""
    return []


@pytest.fixture
def open_page(browser: Browser, faults: list[str]) -> Iterator[OpenPage]:
    """Open a page: `open_page(url, phone=…, dark=…)`."""
    contexts: list[BrowserContext] = []

    def open_page(url: str, *, phone: bool = False, dark: bool = False, **options: object) -> Page:
        context = browser.new_context(
            viewport={"width": 390, "height": 844} if phone else {"width": 1280, "height": 900},
            is_mobile=phone,
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            timezone_id="UTC",
            **{"locale": "en-GB", **options},
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.add_init_script(LISTEN)
        origin = "/".join(url.split("/")[:3])

        def check_message(message):
            if message.type in {"error", "warning"}:
                faults.append(f"console: {message.text}")

        def check_request(request):
            if not request.url.startswith((f"{origin}/", "data:")):
                faults.append(f"not of the page: {request.url}")

        page.on("console", check_message)
        page.on("pageerror", lambda error: faults.append(f"exception: {error}"))
        page.on("request", check_request)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, a program that checks a page against the rules of accessibility."""
    return Path(os.environ["AXE"]).read_text()
