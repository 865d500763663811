"""From the id in a client's error to the cause on the page: at most three clicks, and the right hop is red."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect
from tests.ui.conftest import OpenPage, Program


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with Program("staged", tmp_path_factory.mktemp("staged")) as program:
        yield program.first


class Operator:
    """Counts the clicks of one who looks for a request. To type a text is none."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.clicks = 0

    def click(self, selector: str) -> None:
        self.clicks += 1
        self._page.locator(selector).click()

    def type(self, text: str) -> None:
        self._page.keyboard.type(text)
        self._page.keyboard.press("Enter")


def test_twenty_faults_are_found_in_three_clicks(
    open_page: OpenPage, staged: dict[str, Any], faults: list[str]
) -> None:
    page = open_page(f"http://127.0.0.1:{staged['port']}/ui/")
    page.get_by_label("Key or token of a viewer or an admin").fill(staged["admin"])
    page.keyboard.press("Enter")
    expect(page.get_by_text("Live")).to_be_visible()
    found = {}
    for fault in staged["faults"]:
        page.get_by_role("link", name="Overview", exact=True).click()
        operator = Operator(page)
        operator.click("nav a[href='#/requests']")
        operator.click("input[name=text]")
        operator.type(fault["id"])
        expect(page).to_have_url(re.compile(f"text={quote(fault['id'])}$"))
        expect(page.locator("tbody tr:visible")).to_have_count(1)  # before its answer the row is elsewhere
        operator.click(f"tr[data-id='{fault['id']}']")
        expect(page.locator(".way")).to_be_visible()
        red = page.locator(".way .bad[data-hop]").last
        told = page.locator(".problem h2")
        assert operator.clicks <= 3
        found[fault["model"]] = (
            (told.inner_text(), red.get_attribute("data-hop"))
            if told.count()
            else (page.locator(".heading .chip").inner_text(), None)
        )
    page.close()
    for model, (told, hop) in found.items():
        print(f"{model:20} {hop or '':28} {told}")
    ends = {"slow-first": "200", "learned-rule": "200", "failover": "200", "client-gone": "client gone"}
    assert found == {
        fault["model"]: (f"{fault['code']} at {fault['hop']}" if fault["code"] else ends[fault["model"]], fault["hop"])
        for fault in staged["faults"]
    }
    assert faults == []
