"""The page of a gatepass that runs, with real requests through it."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect
from tests.ui.conftest import OpenPage, Program
from tests.ui.test_page import check_width


@pytest.fixture(scope="module")
def gatepass(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with Program("company", tmp_path_factory.mktemp("gatepass")) as program:
        yield program


@pytest.fixture
def page(open_page: OpenPage, gatepass: Program) -> Page:
    """The overview, after the sign-in."""
    page = open_page(gatepass.first["url"])
    page.get_by_label("Key or token of a viewer or an admin").fill(gatepass.first["admin"])
    page.keyboard.press("Enter")
    expect(page.get_by_text("Live")).to_be_visible()
    return page


def open_view(page: Page, gatepass: Program, hash_: str) -> None:
    page.goto(f"{gatepass.first['url']}{hash_}")


def test_a_stream_arrives(page: Page, gatepass: Program, faults: list[str]) -> None:
    expect(page.locator("[data-credential=corp] .left")).to_have_text(re.compile(r"^0:\d\d$"))
    expect(page.locator("[data-credential=corp] .mark")).to_have_count(1)
    gatepass.do("begin")
    expect(page.locator(".flight")).to_have_text("1")
    expect(page.locator("[data-dots='to upstream corp'] circle")).to_have_count(1)
    open_view(page, gatepass, "#/requests")
    row = page.locator("tbody tr").first
    expect(row.locator(".chip")).to_have_text("running")
    row.click()
    expect(page.locator(".heading .chip")).to_have_text("running")
    assert gatepass.do("end") == 200
    expect(page.locator(".heading .chip")).to_have_text("200")
    expect(page.locator(".facts dd", has_text="upstream-7")).to_be_visible()
    expect(page.locator(".arrivals")).to_contain_text("Longest gap: ")
    open_view(page, gatepass, "#/")
    expect(page.locator(".flight")).to_have_text("0")
    expect(page.locator("[data-upstream=corp] .health")).to_have_text("healthy")
    assert faults == []


VIEWS = {
    "#/": "requests/min",
    "#/requests": "gpt-4o",
    "#/models": "small",
    "#/doctor": "Test every hop",
    "#/errors/upstream_closed": "the timeouts of proxies",
}


def test_each_view_has_data_and_breaks_no_rule(page: Page, gatepass: Program, faults: list[str]) -> None:
    assert gatepass.do("chat") == 200
    for view, shown in VIEWS.items():
        open_view(page, gatepass, view)
        expect(page.locator("main")).to_contain_text(shown)
        check_width(page, view)
    assert faults == []
