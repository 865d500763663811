"""The page of a gatepass that runs, with real requests through it."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect
from tests.ui.conftest import OpenPage
from tests.ui.gateway import ADMIN, Gatepass, running
from tests.ui.test_page import check_width


@pytest.fixture(scope="module")
def gatepass(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gatepass]:
    with running(tmp_path_factory.mktemp("gatepass")) as gatepass:
        yield gatepass


@pytest.fixture
def page(open_page: OpenPage, gatepass: Gatepass) -> Page:
    """The overview, after the sign-in."""
    page = open_page(gatepass.url)
    page.get_by_label("Key of a viewer or an admin").fill(ADMIN)
    page.keyboard.press("Enter")
    expect(page.get_by_text("Live")).to_be_visible()
    return page


def open_view(page: Page, gatepass: Gatepass, hash_: str) -> None:
    page.goto(f"{gatepass.url}{hash_}")


def test_a_stream_arrives(page: Page, gatepass: Gatepass, faults: list[str]) -> None:
    gatepass.upstream.more.clear()
    expect(page.locator("[data-credential=corp] .left")).to_have_text(re.compile(r"^0:\d\d$"))
    expect(page.locator("[data-credential=corp] .mark")).to_have_count(1)
    answer = gatepass.chat(stream=True)
    expect(page.locator(".flight")).to_have_text("1")
    expect(page.locator("[data-dots='to upstream corp'] circle")).to_have_count(1)
    open_view(page, gatepass, "#/requests")
    row = page.locator("tbody tr").first
    expect(row.locator(".chip")).to_have_text("running")
    row.click()
    expect(page.locator(".heading .chip")).to_have_text("running")
    gatepass.upstream.more.set()
    assert answer.result()[0] == 200
    expect(page.locator(".heading .chip")).to_have_text("200")
    expect(page.locator(".facts dd", has_text="upstream-7")).to_be_visible()
    expect(page.locator(".arrivals")).to_contain_text("Longest gap: ")
    open_view(page, gatepass, "#/")
    expect(page.locator(".flight")).to_have_text("0")
    expect(page.locator("[data-upstream=corp] .health")).to_have_text("healthy")
    assert faults == []


def test_a_reload_that_is_refused_says_why_in_the_overview(page: Page, gatepass: Gatepass, faults: list[str]) -> None:
    with gatepass.configured("\nnonsense: 1\n"):
        expect(page.get_by_text("nonsense", exact=False)).to_be_visible()
    assert faults == []


VIEWS = {
    "#/": "requests/min",
    "#/requests": "gpt-4o",
    "#/models": "small",
    "#/doctor": "Test every hop",
    "#/errors/upstream_closed": "the timeouts of proxies",
}


def test_each_view_has_data_and_breaks_no_rule(page: Page, gatepass: Gatepass, faults: list[str]) -> None:
    assert gatepass.chat().result()[0] == 200
    for view, shown in VIEWS.items():
        open_view(page, gatepass, view)
        expect(page.locator("main")).to_contain_text(shown)
        check_width(page, view)
    assert faults == []
