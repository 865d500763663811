"""The page of a gatepass that runs, with real requests through it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect
from tests.ui.conftest import OpenPage
from tests.ui.gateway import ADMIN, Gatepass, running


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
    open_view(page, gatepass, "#/")
    expect(page.locator(".flight")).to_have_text("0")
    expect(page.locator("[data-upstream=corp] .health")).to_have_text("healthy · 0 in flight")
    assert faults == []


def test_a_stream_that_is_cut_is_red_at_its_upstream(page: Page, gatepass: Gatepass, faults: list[str]) -> None:
    gatepass.upstream.cuts = True
    gatepass.upstream.more.set()
    assert "error" in gatepass.chat(stream=True).result()[1]
    gatepass.upstream.cuts = False
    open_view(page, gatepass, "#/requests?outcome=error")
    page.locator("tbody tr").first.click()
    assert page.locator(".way .bad[data-hop]").evaluate_all("(all) => all.map(({dataset}) => dataset.hop)") == [
        "upstream:corp"
    ]
    expect(page.locator(".problem h2")).to_have_text(re.compile("at upstream:corp$"))
    open_view(page, gatepass, "#/")
    expect(page.locator("[data-upstream=corp] .facts")).to_have_text(re.compile(r"^\d+(\.\d)? % errors of \d"))
    assert faults == []


VIEWS = {"#/": "requests a minute", "#/requests": "gpt-4o", "#/callers": "ragflow"}


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_has_data(page: Page, gatepass: Gatepass, faults: list[str], view: str) -> None:
    assert gatepass.chat().result()[0] == 200
    open_view(page, gatepass, view)
    expect(page.locator("main")).to_contain_text(VIEWS[view])
    assert faults == []
