"""The page in a real Chromium, served by a fake: each view, accessibility, the keyboard, a lost connection.

`make ui-check` runs this folder. CHROMIUM is the browser, AXE the file of axe-core.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from threading import Semaphore
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect
from tests.ui import documents
from tests.ui.conftest import ASK, OpenPage
from tests.ui.fake import KEY, STATIC, Fake

VIEWS = {
    "overview": "#/",
    "requests": "#/requests",
    "request": "#/requests/req-1",
    "failed request": "#/requests/req-2",
    "request to an MCP server": "#/requests/req-4",
    "running request": "#/requests/run-1",
    "models": "#/models",
    "doctor": "#/doctor",
    "error": "#/errors/upstream_closed",
}
SHOWS = {
    "overview": "corp-eu",
    "requests": "open-webui",
    "request": "images=content-parts",
    "failed request": "failed here",
    "request to an MCP server": "tools/call find",
    "running request": "Silent for",
    "models": "stream does not support true",
    "doctor": "Test every hop",
    "error": "never marks a cut stream as complete",
}
"""A text that each view has when its data are there."""
FROM_THE_API = {
    *(f"holds a user name or password: put it {place}" for place in ("under credentials", "into proxy_auth")),
    *("input tokens", "output tokens", "nothing failed, and nothing was proven: exit code 4"),
    *("fresh", "stale", "expired", "none", "caller", "failed", "running"),
    *("operation", "code", "kind", "hop", "upstream", "model"),
    *("admin", "viewer", "mcp_tool", "no key may use the server"),
    *(
        "configuration",
        "resolve",
        "tls",
        "connect",
        "store",
        "mcp",
        "no token",
        "keys",
        "models",
        "proxy",
        "initialize",
    ),
    *("complete", "cut", "error reply", "token rejected", "connection failed", "nothing written", "timed out"),
    *("invalid", "drained", "prompt tokens", "completion tokens", "total tokens", "client"),
    *("cached tokens", "reasoning tokens", "object", "array", "string", "number", "boolean", "null"),
    *("ejected", "half open", "waits", "outcome"),
    *("call", "protocols"),
}
"""Values of the API that the page shows as words, and steps of doctor."""
FOCUSED = """(({activeElement: { localName, ariaLabel, textContent }, body, activeElement }) => activeElement === body
  ? "the end of the page"
  : `${localName} ${ariaLabel ?? textContent}`
    + (getComputedStyle(activeElement).outlineStyle === "solid" ? "" : " with invisible focus"))(document)"""
FORBIDDEN = re.compile(r"(?:inner|outer|Adjacent)HTML|document\.write|\beval\(|new Function|localStorage")
WIDE = """[...document.querySelectorAll("body, body *")]
  .filter((element) => element.getBoundingClientRect().right > innerWidth + 1
    || element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).overflowX !== "visible"
      && !element.closest(".unseen, svg, pre, input, .data thead"))
  .map(({ localName, className }) => `<${localName} class="${className.baseVal ?? className}">`)"""


@pytest.fixture
def visit(open_page: OpenPage, fake: Fake, url: str) -> OpenPage:
    """Open a view as an admin who has signed in: `visit("#/requests", phone=…)`."""
    fake.sign_in()
    return lambda view="", **options: open_page(url + view, base_url=url, **options)


def wait_for(holds: Callable[[], object], page: Page) -> None:
    """Wait until `holds()`, while the browser works."""
    for _ in range(600):
        if holds():
            return
        page.wait_for_timeout(50)
    raise AssertionError("not within 30 s")


def evaluate(page: Page, source: str) -> object:
    """Evaluate by the debugger, which needs no exception from the page's policy."""
    session = page.context.new_cdp_session(page)
    answer = session.send("Runtime.evaluate", {"expression": source, "awaitPromise": True, "returnByValue": True})
    assert "exceptionDetails" not in answer, answer
    session.detach()
    return answer["result"].get("value")


@pytest.mark.parametrize("phone", [False, True], ids=["screen", "phone"])
def test_each_view_opens_and_breaks_no_rule(visit: OpenPage, faults: list[str], axe: str, phone: bool) -> None:
    page = visit(phone=phone)
    for view, path in VIEWS.items():
        page.goto(path)
        expect(page.locator("main")).to_contain_text(SHOWS[view])
        if view == "request to an MCP server":
            expect(page).to_have_title(re.compile("^tools/call find · 200"))
        if view == "doctor":
            page.get_by_role("button", name="Test every hop").click()
            expect(page.get_by_text("1 of 3 steps")).to_be_visible()
        check(page, faults, axe, view)


@pytest.mark.parametrize("phone", [False, True], ids=["screen", "phone"])
def test_the_sign_in_breaks_no_rule(open_page: OpenPage, url: str, faults: list[str], axe: str, phone: bool) -> None:
    page = open_page(url, phone=phone)
    expect(page.get_by_label("Key or token of a viewer or an admin")).to_be_focused()
    expect(page.locator("main")).to_contain_text("gatepass keys new --name NAME --role viewer --write")
    check(page, faults, axe, "sign-in")


def check(page: Page, faults: list[str], axe: str, view: str) -> None:
    """Check the width of the page, the rules of axe-core in both schemes, and that the browser reported nothing."""
    check_width(page, view)
    evaluate(page, axe)
    assert broken(page, "{}") == [], view
    page.emulate_media(color_scheme="dark")
    assert broken(page, "{runOnly: ['color-contrast']}") == [], view  # the schemes differ in their colours alone
    page.emulate_media(color_scheme="light")
    assert faults == [], view


def check_width(page: Page, view: str) -> None:
    assert evaluate(page, WIDE) == [], view
    assert evaluate(page, "document.documentElement.scrollWidth <= innerWidth"), view


def broken(page: Page, options: str) -> object:
    """The rules of axe-core that the page breaks, each with its first element."""
    return evaluate(
        page,
        f"axe.run(document, {{resultTypes: ['violations'], ...{options}}}).then(({{violations}}) => violations.map("
        "({id, nodes: [{html, failureSummary}]}) => `${id}: ${html.slice(0, 160)} ${failureSummary}`))",
    )


def test_no_width_scrolls_sideways_or_breaks_the_header(visit: OpenPage) -> None:
    page = visit()
    for view, text in SHOWS.items():
        page.goto(VIEWS[view])
        expect(page.locator("main")).to_contain_text(text)
        for width in (320, 480, 700, 840, 1000, 1060, 1100, 1900):
            page.set_viewport_size({"width": width, "height": 800})
            evaluate(page, "new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
            assert evaluate(page, WIDE) == [], (view, width)
            header = page.locator("#top").bounding_box()
            assert header is not None
            assert header["height"] < 60, (view, width)


def test_the_page_is_small_and_has_nothing_inline() -> None:
    files = sorted(STATIC.iterdir())
    weight = sum(file.stat().st_size for file in files if "zh" not in file.name)  # for readers of Chinese alone
    print(f"{len(files)} files, {weight / 1024:.0f} KiB")
    assert weight <= 160 * 1024
    for file in files:
        text = file.read_text()
        assert FORBIDDEN.findall(text) == [], file
        assert re.findall(r"https?://(?!www\.w3\.org/|HOST/|host…)[\w\[]", text) == [], file
        if file.suffix == ".html":
            assert re.findall(r"\sstyle=|\son\w+=|<style|<script(?![^>]*\bsrc=)|(?:src|href)=\"/", text) == []


def test_a_key_signs_in_and_is_in_no_url_and_no_lasting_storage(
    open_page: OpenPage, url: str, fake: Fake, faults: list[str]
) -> None:
    urls: list[str] = []
    page = open_page(url)
    page.on("request", lambda request: urls.append(request.url))
    field = page.get_by_label("Key or token of a viewer or an admin")
    field.fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_text("gatepass does not know this key, or it has expired.")).to_be_visible()
    expect(field).to_have_value("")
    assert faults == ["console: Failed to load resource: the server responded with a status of 401 (Unauthorized)"]
    field.fill(f" Bearer {KEY}")  # as a header has it
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="corp-eu")).to_be_visible()
    assert not [one for one in urls if KEY in one]
    assert KEY not in str(
        evaluate(
            page,
            "JSON.stringify([localStorage, document.cookie, location.href, document.body.outerHTML])",
        )
    )
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_text("You signed out.")).to_be_visible()


def test_a_viewer_has_no_controls_of_an_admin(open_page: OpenPage, url: str, fake: Fake) -> None:
    fake.sign_in("viewer")
    page = open_page(f"{url}#/requests")
    expect(page.locator("tbody tr")).to_have_count(20)
    expect(page.get_by_text("Capture bodies")).to_have_count(0)
    expect(page.locator("main")).not_to_contain_text("false")
    page.goto(f"{url}#/requests/req-2")
    expect(page.get_by_text("An admin can capture the next requests.")).to_be_visible()
    expect(page.get_by_role("button", name="Capture")).to_have_count(0)
    page.goto(f"{url}#/requests/req-1")
    expect(page.get_by_role("button", name="Copy as curl")).to_be_visible()
    page.goto(f"{url}#/models")
    expect(page.get_by_text('stream: "emulate"').first).to_be_visible()
    expect(page.get_by_role("button", name="Forget")).to_have_count(0)
    expect(page.get_by_role("link", name="Doctor")).to_have_count(0)
    page.goto(f"{url}#/doctor")
    expect(page.get_by_text("The doctor requires the key of an admin")).to_be_visible()


def test_the_keyboard_alone_goes_from_the_start_into_a_request_and_back(visit: OpenPage) -> None:
    page = visit()
    expect(page.locator(".plot").first).to_be_visible()
    focused = page.locator(":focus")
    page.keyboard.press("Tab")
    expect(focused).to_have_text("Skip to the content")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    assert page.url.endswith("/ui/")
    reached: list[str] = []
    while reached[-1:] != ["a Requests"]:
        assert len(reached) < 40
        page.keyboard.press("Tab")
        reached.append(str(evaluate(page, FOCUSED)))
    assert {"a corp", "a corp-eu", "a openai", "div Duration without errors"} <= set(reached)
    assert [one for one in reached if "invisible" in one] == []
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr")).to_have_count(20)
    link = page.locator("tbody a").first
    link.focus()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    expect(page.locator("tbody tr").nth(2).locator("a")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("failed here").first).to_be_visible()
    page.keyboard.press("Tab")
    expect(focused).to_have_text("Requests")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Requests")).to_be_visible()


def test_the_arrow_keys_read_a_plot(visit: OpenPage, fake: Fake) -> None:
    page = visit()
    plot = page.get_by_role("slider", name="Requests")
    plot.focus()
    for _ in range(28):
        page.keyboard.press("ArrowLeft")
    expect(plot).to_have_attribute("aria-valuetext", re.compile(r": requests \d+, errors 2$"))
    page.keyboard.press("Escape")
    expect(plot).to_have_attribute(
        "aria-valuetext", f"in all: requests {sum(fake.traffic['series']['requests'])}, errors 5"
    )
    expect(page.locator(".plot").first.locator(".at")).to_have_text("in all")
    expect(page.locator(".plot").last.locator(".at")).to_have_text(re.compile(r"^at \d\d:\d\d:\d\d$"))


def test_percentiles_differ_without_colour(visit: OpenPage) -> None:
    plot = visit().locator(".plot", has_text="Duration")
    expect(plot.locator(".legend li")).to_contain_text(["", "p50", "p95", "p99"])
    dashes = plot.locator(".line").evaluate_all("(all) => all.map((one) => getComputedStyle(one).strokeDasharray)")
    marks = plot.locator(".legend i").evaluate_all("(all) => all.map((one) => getComputedStyle(one).backgroundImage)")
    assert len(set(dashes)) == 3
    assert len({re.sub(r"rgba?\([^)]*\)", "", mark) for mark in marks}) == 3


def test_the_theme_changes_by_its_button_and_is_forgotten(visit: OpenPage) -> None:
    page = visit()
    ground = "getComputedStyle(document.body).backgroundColor"
    light = evaluate(page, ground)
    page.get_by_role("button", name="Light or dark").click()
    assert evaluate(page, ground) != light
    page.get_by_role("button", name="Light or dark").click()
    assert evaluate(page, ground) == light


def test_a_phone_changes_the_theme_too(visit: OpenPage) -> None:
    page = visit(phone=True)
    light = evaluate(page, "getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Light or dark").click()
    assert evaluate(page, "getComputedStyle(document.body).backgroundColor") != light


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("en-GB", "There is no outcome failed: it is ok, error, client_gone or unread."),
        ("zh-CN", "没有 failed 这种结果，可选值为 ok、error、client_gone 和 unread。"),
    ],
)
def test_an_unknown_outcome_is_named_and_can_be_removed(visit: OpenPage, fake: Fake, locale: str, text: str) -> None:
    """It was an empty table, and no filter was visible."""
    fake.summaries["running"] = []
    page = visit("#/requests?outcome=failed", locale=locale)
    expect(page.locator(".empty")).to_have_text(text)
    page.locator(".chips button", has_text="failed ×").click()
    expect(page.locator("tbody tr").first).to_be_visible()
    assert "outcome" not in page.url


def test_unread_is_an_outcome(visit: OpenPage, fake: Fake) -> None:
    """The page denied the outcome that its own list showed."""
    fake.summaries["requests"] = fake.summaries["running"] = []
    expect(visit("#/requests?outcome=unread").locator(".empty")).to_have_text(
        "No request in memory matches the filters."
    )


@pytest.mark.parametrize("width", [1000, 1280, 1920])
def test_no_short_word_of_a_table_is_broken(visit: OpenPage, fake: Fake, width: int) -> None:
    """A long text beside it broke `learned` after `learn`."""
    rule = fake.learned["rules"][0]
    evidence = "the parameter stream is not supported with this model. " * 12
    fake.learned["rules"] = [{**rule, "callers": ["openwebui", "claude"], "evidence": evidence}]
    page = visit("#/models")
    page.set_viewport_size({"width": width, "height": 900})
    cell = page.get_by_role("table", name="Learned rules").locator("td").nth(1)
    expect(cell).to_contain_text("openwebui")
    words = """(cell) => [...cell.textContent.matchAll(/[\\w-]+/g)].map(({ 0: word, index }) => {
      const range = document.createRange();
      range.setStart(cell.firstChild, index);
      range.setEnd(cell.firstChild, index + word.length);
      return [word, range.getClientRects().length];
    })"""
    assert cell.evaluate(words) == [["openwebui", 1], ["claude", 1]]


def test_the_rules_of_a_model_are_one_table(visit: OpenPage, fake: Fake) -> None:
    first, second = fake.learned["rules"]
    elsewhere = {**second, "upstream": "other", "operation": "responses"}
    fake.learned["rules"] = [first, {**first, "model": "gpt-4o"}, second, elsewhere]
    page = visit("#/models")
    expect(page.locator("section section h3")).to_have_text(["o3-mini", "gpt-4o"])
    rows = [page.get_by_role("table", name=f"Learned rules: {name}").locator("tbody tr") for name in ("o3", "gpt")]
    assert [one.count() for one in rows] == [3, 1]
    where = page.locator("td[data-label='Upstream, operation']")
    expect(where).to_have_text(["corp, chat", "corp, chat", "other, responses", "corp, chat"])
    assert page.locator("section section h3").nth(1).evaluate("one => parseFloat(getComputedStyle(one).marginTop)") > 0


def test_a_lost_connection_is_said_and_comes_back(visit: OpenPage, fake: Fake) -> None:
    page = visit()
    expect(page.get_by_text("Live")).to_be_visible()
    fake.is_serving = False
    expect(page.get_by_text("The connection is lost.")).to_be_visible()
    expect(page.get_by_text("The next try is in 2 s.")).to_be_visible()
    expect(page.get_by_text("healthy").first).to_be_visible()  # the last state stays
    with page.expect_request("**/api/status"):  # before it serves, so that no other try removes the button
        page.get_by_role("button", name="Try now").click()
    fake.is_serving = True
    expect(page.get_by_text("Live")).to_be_visible()
    expect(page.get_by_text("The connection is lost.")).to_be_hidden()
    fake.is_serving = False
    expect(page.get_by_text("The connection is lost.")).to_be_visible()
    fake.is_serving = True
    expect(page.get_by_text("Live")).to_be_visible()


def test_an_ended_key_is_asked_for_again_with_the_reason(visit: OpenPage, fake: Fake) -> None:
    page = visit()
    expect(page.get_by_text("Live")).to_be_visible()
    fake.session.update(signed_in=None)
    fake.is_serving = False
    expect(page.get_by_text("The connection is lost.")).to_be_visible()
    fake.is_serving = True
    expect(page.get_by_text("gatepass does not know this key, or it has expired.")).to_be_visible()
    expect(page.get_by_label("Key or token of a viewer or an admin")).to_be_focused()


def test_a_page_asks_for_one_view_every_two_seconds_and_not_while_the_tab_is_hidden(
    visit: OpenPage, fake: Fake
) -> None:
    page = visit()
    for view in ("#/requests", "#/", "#/models", "#/requests"):
        page.goto(view)
        page.wait_for_timeout(100)
    expect(page.locator("tbody tr")).to_have_count(20)  # the first reply has arrived
    fake.polled.clear()
    began_s = time.monotonic()
    wait_for(lambda: fake.polled, page)
    wait_for(lambda: len(fake.polled) > 1, page)
    wait_for(lambda: len(fake.polled) > 2, page)
    assert time.monotonic() - began_s > 3
    assert {view for view, _ in fake.polled} == {"requests"}
    hide = (
        "Object.defineProperty(document, 'hidden', {{value: {}, configurable: true}});"
        " document.dispatchEvent(new Event('visibilitychange'))"
    )
    evaluate(page, hide.format("true"))
    expect(page.get_by_text("Paused")).to_be_visible()
    fake.polled.clear()
    page.wait_for_timeout(2500)
    assert fake.polled == []
    evaluate(page, hide.format("false"))
    expect(page.get_by_text("Live")).to_be_visible()
    assert {view for view, _ in fake.polled} == {"requests"}


def test_filters_are_a_link_and_reach_the_list(visit: OpenPage, fake: Fake, faults: list[str]) -> None:
    page = visit("#/requests")
    page.get_by_label("search").fill("req-4")
    expect(page).to_have_url(re.compile(r"#/requests\?text=req-4$"))
    expect(page.get_by_label("search")).to_be_focused()
    expect(page.locator("tbody tr", has_text="bge-m3")).to_have_count(1)
    wait_for(lambda: fake.polled[-1:] == [("requests", {"limit": "200", "text": "req-4"})], page)
    page.get_by_role("link", name="Clear").click()
    expect(page.get_by_label("search")).to_have_value("")  # before, the field is that of the view that is left
    page.get_by_label("search").fill("req-4")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"#/requests\?text=req-4$"))
    page.get_by_role("link", name="Clear").click()
    expect(page.locator("tbody tr", has_text="o3-mini")).to_have_count(1)
    failed = page.get_by_role("button", name="failed")
    failed.click()
    expect(page).to_have_url(re.compile(r"#/requests\?outcome=error$"))
    expect(failed).to_have_attribute("aria-pressed", "true")  # before, the chip is that of the view that is left
    failed.click()
    expect(page).to_have_url(re.compile(r"#/requests$"))
    page.goto("#/requests?upstream=corp-eu")
    expect(page.locator("tbody tr", has_text="bge-m3")).to_have_count(1)
    page.get_by_role("button", name="Remove the filter upstream corp-eu").click()
    expect(page).to_have_url(re.compile(r"#/requests$"))
    assert faults == []


def test_equal_failures_in_a_row_are_one_row_that_opens(visit: OpenPage, fake: Fake) -> None:
    failed = {"status": 429, "outcome": "error", "code": "rate_limit_exceeded", "hop": "upstream:corp"}
    bad = [documents.summary(f"bad-{i}", 2 + i / 10, **failed) for i in range(7)]
    fake.summaries.update(requests=[documents.summary("good", 1), *bad, documents.summary("older", 9)], running=[])
    page = visit("#/requests")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(1)).to_contain_text("7 × 429 rate_limit_exceeded")
    for request in fake.summaries["requests"]:
        if request["code"] == "rate_limit_exceeded":
            request.update(code="429", kind="upstream_error")
    evaluate(page, ASK)
    expect(rows.nth(1).locator("td").nth(1)).to_have_text("7 × 429")  # not "429 429"
    rows.nth(1).get_by_role("button").click()
    expect(rows).to_have_count(10)
    expect(rows.nth(2).locator("a")).to_have_attribute("href", "#/requests/bad-0")
    rows.nth(1).get_by_role("button").click()
    expect(rows).to_have_count(3)


def test_a_list_of_failures_has_a_row_for_each_code_request_and_upstream(visit: OpenPage, fake: Fake) -> None:
    bad = {"status": 502, "outcome": "error", "code": "upstream_closed", "hop": "upstream:corp"}
    known = {"status": 404, "outcome": "error", "code": "model_not_found", "hop": "client"}
    rows = [(documents.summary(f"bad-{i}", 60 * i, caller=f"app-{i % 2}", stream=i > 2, **bad), bad) for i in range(4)]
    rows.insert(2, (documents.summary("lost", 90, **known), known))
    rows += [(documents.summary(f"other-{i}", 300, **{**known, "upstream": "spare"}), known) for i in range(2)]
    fake.summaries.update(requests=[row for row, _ in rows], running=[])
    page = visit("#/requests?outcome=error")
    shown = page.locator("tbody tr")
    expect(shown.locator("td:nth-child(-n + 2)")).to_have_text(
        [
            *("16:56:59–16:59:59", "4 × 502 upstream_closed", "16:54:59", "2 × 404 model_not_found"),
            *("16:58:29", "404 model_not_found"),
        ]
    )
    expect(shown.first.locator("td").nth(2)).to_have_text("2 callers")
    shown.first.get_by_role("button").click()
    expect(shown).to_have_count(7)


def test_a_chip_of_the_overview_leads_to_the_failures(visit: OpenPage, fake: Fake) -> None:
    fake.traffic["series"]["errors"][-1] += 3
    page = visit()
    expect(page.get_by_role("link", name="+2 others")).to_have_attribute("href", "#/requests?outcome=error")
    expect(page.locator(".plot").first).to_be_in_viewport(ratio=1)
    expect(page.get_by_role("list", name="Errors in 15 minutes, by code")).to_be_visible()
    page.get_by_role("link", name="4 upstream_closed").click()
    expect(page).to_have_url(re.compile(r"#/requests\?code=upstream_closed&kind=upstream_closed$"))
    polled = ("requests", {"limit": "200", "code": "upstream_closed", "kind": "upstream_closed"})
    wait_for(lambda: fake.polled[-1:] == [polled], page)


def test_an_upstream_that_answers_each_request_with_an_error_is_red_and_named(visit: OpenPage, fake: Fake) -> None:
    page = visit()
    card = page.locator("[data-upstream=corp]")
    expect(card).to_be_visible()
    expect(page.locator(".fails")).to_be_hidden()
    fake.status["upstreams"]["corp-eu"].update(requests_15m=0)
    fake.status["upstreams"]["corp"].update(requests_15m=4, errors_15m=4, many_errors=True)
    page.evaluate(ASK)
    sentence = "Fails: upstream corp. Its last error shows the cause and what to do."
    expect(page.locator(".fails")).to_contain_text(sentence)
    expect(card).to_have_class("card upstream bad")
    expect(card.locator(".health.failed")).to_contain_text("every request failed")
    idle = page.locator("[data-upstream=corp-eu] .facts a")
    expect(idle).to_have_attribute("href", "#/requests?upstream=corp-eu")
    errors = "#/requests?outcome=error&hop=upstream%3Acorp"
    expect(page.locator(".fails a")).to_have_attribute("href", errors)


def test_the_overview_says_whether_a_credential_or_an_upstream_fails(visit: OpenPage, fake: Fake) -> None:
    first = fake.status["upstreams"]["corp"]
    lost = {"state": "none", "failing": True, "expires_in_s": None}
    fake.status["credentials"]["llm"] = {**fake.status["credentials"]["corp"], **lost}
    last = {"id": "req-2", "code": "upstream_connect", "kind": "upstream_connect", "age_s": 3.0, "for_s": 3.0}
    fake.status["upstreams"] |= {
        "behind": {**first, "credential": "llm", "health": "unknown"},
        "llm": {**first, "credential": None, "health": "failing", "last_failed": last},
    }
    links = visit().locator(".fails a")
    expect(links).to_have_text(["credential llm", "upstream llm"])
    hrefs = links.evaluate_all("(links) => links.map(({ hash }) => hash)")
    assert hrefs == ["#/requests?outcome=error&hop=credential%3Allm", "#/requests/req-2"]


def test_an_upstream_that_rejected_one_token_fails_as_this_request_alone(visit: OpenPage, fake: Fake) -> None:
    fake.status["credentials"]["corp"]["rejected_by"] = {"corp": 3.0}
    last = {"in_a_row": 1, "id": "req-2", "code": "upstream_auth", "kind": "upstream_auth", "for_s": 60.0, "age_s": 12}
    fake.status["upstreams"]["corp"].update(last_failed=last)
    page = visit()
    expect(page.locator(".fails")).to_contain_text(re.compile(r"upstream_auth at upstream:corp 12 s ago\. Its"))
    link = page.locator(".fails a")
    expect(link).to_have_text("upstream_auth at upstream:corp")
    expect(link).to_have_attribute("href", "#/requests/req-2")
    card = page.locator("[data-upstream=corp]")
    expect(card).to_have_class("card upstream")
    expect(card.locator(".health")).to_contain_text(re.compile(r"^rejected a token 12 s ago, upstream_auth"))


def test_the_overview_begins_with_what_fails_and_with_sums(visit: OpenPage, fake: Fake) -> None:
    end = (datetime.now(UTC) + timedelta(days=3, hours=1, minutes=30)).isoformat()
    keys = [{"name": "app", "expires": end, "state": "expires soon"}, {"name": "b", "expires": None, "state": "valid"}]
    fake.status.update(reload_problems=["server.port: no", "nonsense: unknown"], keys=keys)
    fake.traffic["callers"] = {"ragflow": 5, "none": 1}
    page = visit(locale="zh-CN")
    expect(page.locator(".reload")).to_have_text("上次重新加载被拒绝：server.port: no；nonsense: unknown")
    expect(page.locator(".ending")).to_have_text("app 的 key 3 天 1 小时后过期")
    expect(page.locator(".strip dd")).to_have_text(
        [
            "587",
            "5（0.9 %）",
            "≤ 500 ms · ≤ 1.00 s · > 60.0 s",
            "≤ 2.56 s · ≤ 5.12 s · ≤ 10.2 s",
            "ragflow 5没有有效的 key 1",
        ]
    )
    links = page.locator(".strip dd a")
    expect(links.nth(0)).to_have_attribute("href", "#/requests?outcome=error")
    expect(links.nth(1)).to_have_attribute("href", "#/requests?outcome=error&caller=ragflow")


def test_the_errors_of_an_upstream_are_those_of_the_strip_and_of_the_list(visit: OpenPage, fake: Fake) -> None:
    """Two 404 of five requests were 40 % in the strip and 0 % at their upstream."""
    fake.status["upstreams"]["corp"].update(requests_15m=5, errors_15m=0, rejected_15m=2)
    page = visit()
    card = page.locator(".upstream[data-upstream=corp]")
    expect(card.locator(".facts a")).to_have_text("40 % errors of 5 requests in 15 min")
    expect(card.locator(".facts a")).to_have_attribute("href", "#/requests?upstream=corp&outcome=error")
    expect(card.locator(".health")).to_have_text(re.compile("^healthy"))  # no fault of the upstream
    server = documents.upstream("tools.corp", "mcp", "corp", in_flight=0, requests=5, errors=1)
    fake.status["mcp"]["servers"]["search"] = {**server, "rejected_15m": 2}
    evaluate(page, ASK)
    row = page.get_by_role("table", name="MCP servers").locator("tbody tr")
    expect(row).to_contain_text("3 (60 %)")


def test_an_upstream_with_many_errors_is_not_called_healthy(visit: OpenPage, fake: Fake) -> None:
    fake.status["upstreams"]["corp"].update(requests_15m=412, errors_15m=150)
    page = visit()
    card = page.locator("[data-upstream=corp]")
    for many_errors, said in ((False, "healthy"), (True, "many errors")):
        fake.status["upstreams"]["corp"].update(many_errors=many_errors)
        page.evaluate(ASK)
        expect(card.locator(".health")).to_have_text(f"{said} · 3 in flight")
    expect(card.locator(".facts a")).to_have_text(re.compile("% errors of 412 requests in 15 min$"))
    expect(card.locator(".facts a")).to_have_attribute("href", "#/requests?upstream=corp&outcome=error")


def test_an_upstream_without_a_token_leads_to_its_credential(visit: OpenPage, fake: Fake) -> None:
    lost = {"state": "none", "failing": True, "expires_in_s": None}
    fake.status["credentials"]["broken"] = {**fake.status["credentials"]["corp"], **lost}
    behind = {**fake.status["upstreams"]["corp"], "credential": "broken", "health": "unknown"}
    fake.status["upstreams"]["behind"] = behind
    page = visit()
    said = "no token, its credential fails: broken"
    expect(page.locator("[data-upstream=behind] .health")).to_contain_text(said)
    page.locator("[data-upstream=behind] .health a").click()
    expect(page.locator("[data-credential=broken]")).to_be_focused()


def test_what_fails_comes_first(visit: OpenPage, fake: Fake) -> None:
    first = fake.status["upstreams"]["corp"]
    fake.status["upstreams"]["down"] = {**first, "health": "failing"}
    fake.status["credentials"]["broken"] = {**fake.status["credentials"]["corp"], "failing": True}
    mcp = {**first, "dialect": "mcp", "credential": None}
    fake.status["mcp"]["servers"] = {"a": mcp, "b": {**mcp, "health": "failing"}}
    page = visit()
    expect(page.locator(".upstream h3 a").first).to_have_text("down")
    names = page.locator(".branch").evaluate_all("all => all.map((one) => one.querySelector('h3').innerText)")
    assert names[:3] == ["corp oauth2", "broken oauth2", "mcp/b mcp"]
    servers = page.get_by_role("table", name="MCP servers").locator("tbody tr")
    expect(servers.first.locator("a").first).to_have_text("b")


def test_the_overview_has_the_use_of_callers_the_limits_and_the_mcp_servers(visit: OpenPage, fake: Fake) -> None:
    server = documents.upstream("tools.corp", "mcp", "corp", in_flight=0, requests=12, errors=1)
    failed = {
        "in_a_row": 3,
        "id": "req-2",
        "code": "upstream_connect",
        "kind": "upstream_connect",
        "for_s": 60.0,
        "age_s": 12.3,
    }
    fake.status["mcp"]["servers"]["tools"] = {**server, "health": "failing", "last_failed": failed}
    fake.limits["limits"][1]["left"] = 0
    page = visit()
    expect(page.locator("main section h2")).to_have_text(["Callers", "Limits", "MCP servers"])
    expect(page.get_by_text("Use since the start of gatepass.")).to_be_visible()
    rows = page.locator("main table tbody tr")
    expect(rows.nth(0)).to_have_text(re.compile(r"^ragflow3 of 161,2049 \(0\.7 %\)912 k"))
    expect(rows.nth(3)).to_have_text("anna0000not since the start")
    expect(rows.nth(4)).to_have_text("group/chatstokens.minute200 k150 k50,000")
    expect(rows.nth(5).locator(".failed")).to_have_text("0")
    expect(rows.nth(6)).to_contain_text("https://llm.corp.example/mcp/tools")
    expect(rows.nth(6).locator(".health a")).to_have_attribute("href", "#/requests/req-2")
    expect(rows.nth(6)).to_contain_text("121 (8.3 %)")
    links = rows.locator("> td > a")
    assert links.evaluate_all("(links) => links.map((link) => link.getAttribute('href'))") == [
        "#/requests?caller=ragflow",
        "#/requests?caller=ragflow&outcome=error",
        "#/requests?caller=open-webui",
        "#/requests?caller=claude-code",
        "#/requests?caller=anna",
        "#/requests?upstream=mcp%2Ftools",
        "#/requests?upstream=mcp%2Ftools&outcome=error",
    ]
    links.nth(2).focus()
    fake.callers["callers"][0]["requests"] += 1
    page.evaluate(ASK)
    expect(rows.nth(0)).to_contain_text("1,205")
    expect(links.nth(2)).to_be_focused()


def test_no_view_in_chinese_has_an_english_sentence_of_the_page(visit: OpenPage, fake: Fake, faults: list[str]) -> None:
    page = visit(locale="zh-CN")
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page.get_by_role("button", name="退出登录")).to_be_visible()
    data = json.dumps([vars(fake)[name] for name in ("status", "traffic", "stories", "models", "learned", "doctor")])
    for view, path in VIEWS.items():
        page.locator("main").evaluate("(main) => main.replaceChildren()")  # what follows is of this view
        page.goto(path)
        expect(page.locator("main h1, main h2").first).to_be_attached()
        if view == "doctor":
            page.get_by_role("button", name="检测每一跳").click()
            expect(page.get_by_text("3 步中有 1 步失败：upstream:corp")).to_be_visible()
        sentences = re.findall(r"\b[a-z]+(?: [a-z]+){2,}", page.locator("main").inner_text())
        assert [one for one in sentences if one not in data] == [], view
        check_width(page, view)
    assert faults == []


def test_the_language_is_switched_and_remembered(visit: OpenPage) -> None:
    page = visit()
    page.get_by_role("button", name="中文").click()
    expect(page.get_by_role("link", name="请求", exact=True)).to_be_visible()
    page.goto("#/models")
    page.reload()
    expect(page.get_by_role("heading", name="模型与规则")).to_be_visible()
    page.get_by_role("button", name="English").click()
    expect(page.get_by_role("heading", name="Models and rules")).to_be_visible()


def test_each_text_of_the_page_has_its_chinese_with_the_same_values() -> None:
    sources = {file: file.read_text() for file in STATIC.glob("*.js") if "zh" not in file.name}
    code = "\n".join(sources.values())
    texts = {json.loads(found) for found in re.findall(r'\bt\(("(?:[^"\\]|\\.)*")', code)}
    texts |= {f"{{n}} {found}" for found in re.findall(r'plural\((?:[^"(]|\([^)]*\))*, "([a-z]+)"', code)}
    chinese = json.loads(STATIC.joinpath("zh.js").read_text().partition("TEXTS = ")[2].rstrip(";\n"))
    assert texts - set(chinese) == set()
    of_text = ("cli/story_lines.py", "cli/doctor.py", "cli/init.py", "config/checks.py", "config/block.py")
    # a long text stands on several lines
    shown = re.sub(r'"\n *"', "", "".join((STATIC.parents[2] / name).read_text() for name in of_text))
    forms = {one: (one, one.removeprefix("{n} ")) for one in chinese}
    of_cli = {one for one in chinese if any(json.dumps(form, ensure_ascii=False) in shown for form in forms[one])}
    assert set(chinese) - texts - {*FROM_THE_API} - of_cli == set()
    for text, translated in chinese.items():
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", translated)), text


def updated(*path: str | int, **members: object) -> Callable[[Fake], None]:
    """Return a change of the document at `path`."""

    def change(fake: Fake) -> None:
        found: Any = vars(fake)
        for step in path:
            found = found[step]
        found.update(members)

    return change


UNCHANGED = updated("session")
NUMBERS = updated(
    "traffic",
    errors=[
        *(documents.counted(code, number, "upstream_error") for code, number in (("400", 4), ("1261", 3), ("502", 2))),
        documents.counted("upstream_closed", 1),
    ],
)
BORROWED = updated(
    "traffic",
    errors=[documents.counted("upstream_closed", 2, "upstream_error"), documents.counted("upstream_closed", 1)],
)


def ruled(**members: object) -> Callable[[Fake], None]:
    """Return a change of the second learned rule."""
    return updated("learned", "rules", 1, **members)


REACH = "tr:last-child td[data-label=Rule] p"
IDLE = {"model": "", "operation": "mcp_stream", "mcp_method": "", "stream": True, "path": "/mcp/search"}
LOST = {"model": "", "operation": "none", "path": "/v1/chat", "stream": False, "status": 404, "outcome": "error"}
UNNAMED = [documents.summary("idle", 2, **IDLE), documents.summary("lost", 3, **LOST)]
ENGLISH_NUMBERS = ["HTTP status: invalid request", "the upstream's own code", "HTTP status: the upstream failed"]
LOOKS: dict[str, tuple[str, Callable[[Fake], None], str, str, Sequence[str | re.Pattern[str]]]] = {
    "codes of the overview": (
        *("en-GB", UNCHANGED, "#/", ".codes li"),
        ["4 upstream_closed The connection closed before the answer was complete", "2 token_unavailable No token"],
    ),
    "codes that are numbers": (
        *("en-GB", NUMBERS, "#/", ".codes li span"),
        [*ENGLISH_NUMBERS, "The connection closed before the answer was complete"],
    ),
    "a code of an upstream that gatepass has too": (
        *("en-GB", BORROWED, "#/", ".codes li"),
        [
            "2 upstream_closed An upstream's own error",
            "1 upstream_closed The connection closed before the answer was complete",
        ],
    ),
    "what the code of an upstream means": (
        *("en-GB", UNCHANGED, "#/errors/upstream_error?code=404", "h1, .prose p"),
        ["404", "An upstream's own error."],
    ),
    "next try of a failing credential": (
        *("en-GB", updated("status", "credentials", "corp", failing=True, next_try_in_s=3.0)),
        *("#/", "[data-credential=corp] .facts", [re.compile("next try in 0:03")]),
    ),
    "what to do": (
        *("en-GB", UNCHANGED, "#/requests/req-2", ".problem p >> nth=1"),
        ["Action: Check the upstream's log, and network.proxy."],
    ),
    "a setting in what to do": ("en-GB", UNCHANGED, "#/requests/req-2", ".problem code", ["network.proxy"]),
    "a list whose items have several lines": (
        *("en-GB", UNCHANGED, "#/errors/upstream_closed", ".prose li"),
        [re.compile("never marks"), re.compile(r"a stream after \[DONE\]")],
    ),
    "status of a refusal of MCP": (
        *("en-GB", UNCHANGED, "#/errors/mcp_not_allowed", "main > .muted"),
        ["Status 200 with an error in JSON-RPC, 403 for a notification"],
    ),
    "callers of the learned rules": (
        *("en-GB", UNCHANGED, "#/models", "td[data-label=Callers]"),
        ["aider, claude-code, codex, n8n, open-webui and 2 more", "ragflow"],
    ),
    "value of a learned rule": ("en-GB", UNCHANGED, "#/models", REACH, ["only for the value 0.3"]),
    "values of a learned rule": (
        *("en-GB", ruled(beside="top_p", values=["0.3", "0.5"], hidden_values=2), "#/models", REACH),
        ["only in requests with top_p", "only for the values 0.3, 0.5 and 2 more"],
    ),
    "a value that is hidden": (
        *("en-GB", ruled(beside="!a+b", values=[], hidden_values=1), "#/models", REACH),
        ["only in requests without the betas a+b", "only for the value that was sent"],
    ),
    "values that are hidden": (
        *("en-GB", ruled(values=[], hidden_values=3), "#/models", REACH),
        ["only for the 3 values that were sent"],
    ),
    "a learned rule for all requests": ("en-GB", ruled(values=[]), "#/models", REACH, []),
    "stream or path of requests without a model": (
        *("en-GB", updated("summaries", requests=UNNAMED, running=[])),
        *("#/requests", "tbody tr td:nth-child(4)", ["stream", "/v1/chat"]),
    ),
}
"""Language, change, path of the view, and what shows the datum with its texts."""


@pytest.mark.parametrize("look", LOOKS)
def test_a_view_shows(visit: OpenPage, fake: Fake, look: str) -> None:
    locale, change, path, selector, texts = LOOKS[look]
    change(fake)
    expect(visit(path, locale=locale).locator(selector)).to_have_text(texts)


MCP_HOPS = ["client", "gatepass", "credential:corp", "credential:tools", "upstream:mcp/search"]
NO_TOKEN = {**documents.failed_story()["error"], "code": "token_unavailable", "hop": "credential:corp"}
WAYS: dict[str, tuple[str, Callable[[Fake], None], list[str], list[str]]] = {
    "a request": ("req-1", UNCHANGED, ["client", "gatepass", "credential:corp", "upstream:corp"], []),
    "a credential without its subject": ("req-4", UNCHANGED, MCP_HOPS, ["credential:corp"]),
    "no attempt": (
        *("req-2", updated("stories", "req-2", error=NO_TOKEN, attempts=[])),
        *(["client", "gatepass", "credential:corp"], ["credential:corp"]),
    ),
}
"""The request, its change, the hops of its way, and those that are red."""


@pytest.mark.parametrize("way", WAYS)
def test_the_way_of_a_request_has_each_hop_and_the_failed_ones_are_red(visit: OpenPage, fake: Fake, way: str) -> None:
    request, change, hops, red = WAYS[way]
    change(fake)
    page = visit(f"#/requests/{request}")
    expect(page.locator(".way [data-hop]")).to_have_count(len(hops))
    read = "(all) => all.map(({dataset}) => dataset.hop)"
    assert page.locator(".way [data-hop]").evaluate_all(read) == hops
    assert page.locator(".way .bad[data-hop]").evaluate_all(read) == red
    expect(page.locator(".way .wire")).to_have_count(len(hops) - 1)


def test_a_long_list_is_capped_and_a_paused_one_stands_still(visit: OpenPage, fake: Fake) -> None:
    page = visit("#/requests")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(20)
    page.get_by_role("button", name="Pause").click()
    fake.summaries["requests"] = [documents.summary(f"new-{i}", -1 - i) for i in range(1000)]
    page.evaluate(ASK)
    page.wait_for_timeout(600)
    expect(rows).to_have_count(20)
    page.get_by_role("button", name="Continue").click()
    expect(rows).to_have_count(200)
    expect(page.get_by_text("200 requests, 1 running, older ones are not shown")).to_be_visible()


def test_text_from_outside_never_becomes_markup(visit: OpenPage, fake: Fake, faults: list[str]) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(1)</script>"
    fake.summaries["requests"] = [documents.summary(evil, 1, model=evil, caller=evil, code=evil, outcome="error")]
    story = documents.failed_story()
    story.update(
        model=evil,
        user_agent=evil,
        caller=evil,
        error=dict.fromkeys(("code", "hop", "message", "cause", "action", "page"), evil),
    )
    story["attempts"][0].update(upstream=evil, adapted=[evil])
    fake.stories[evil] = story
    page = visit("#/requests")
    page.locator("tbody a").nth(0).click()
    expect(page.get_by_text(evil).first).to_be_visible()
    assert page.locator("main img, main script").count() == 0
    assert faults == []


def problems(visit: OpenPage, fake: Fake, errors: list[documents.Document]) -> Iterator[Locator]:
    """Yield the problem that the page shows in Chinese for a request with each of `errors`."""
    page = visit(locale="zh-CN")
    for number, members in enumerate(errors):
        story = documents.failed_story()
        story.update(id=f"case-{number}", error={**story["error"], "case": "", "action": "Wait.", **members})
        fake.stories[story["id"]] = story
        page.locator("main").evaluate("(main) => main.replaceChildren()")  # what follows is of this request
        page.goto(f"#/requests/{story['id']}")
        yield page.locator(".problem")


def test_an_error_begins_with_its_sentence_in_chinese(visit: OpenPage, fake: Fake) -> None:
    said = {"sentence_zh": "请求被上游限流。", "action_zh": "稍后重试，或请上游管理员提高 `限额`。"}
    own: documents.Document = {
        **said,
        "code": "draining",
        "kind": "draining",
        "cause": "In words that the page has not.",
    }
    own["retry_after_s"] = 16.2
    theirs = {**said, "code": "429", "kind": "upstream_error", "cause": "GPU is on fire."}
    for error, problem in zip((own, theirs), problems(visit, fake, [own, theirs]), strict=True):
        shown = [said["sentence_zh"], f"原文：{error['cause']}"]
        first = shown if error is own else [error["cause"], said["sentence_zh"]]
        expect(problem.locator("p").nth(0)).to_have_text(first[0])
        expect(problem.locator("p").nth(1)).to_have_text(first[1])
        expect(problem).to_contain_text("处理：稍后重试，或请上游管理员提高 限额。")
        waits = problem.get_by_text("建议客户端 17 s 后重试（retry-after）。")  # rounded up, as `gatepass show` has it
        expect(waits).to_have_count(1 if error is own else 0)


def test_the_outcome_of_an_attempt_is_in_words_and_repeats_no_message(visit: OpenPage, fake: Fake) -> None:
    story = fake.stories["req-2"]
    story["error"].update(message="GPU is on fire. Ask its owner.")
    first, second = story["attempts"]
    first.update(outcome="timed_out", code="upstream_timeout_total", reason="connection refused")
    second.update(outcome="error_reply", code="upstream_error", status=502, reason="GPU is on fire")
    second["token"].update(age_s=0.1)
    page = visit("#/requests/req-2")
    expect(page.locator("tbody td:nth-child(3)")).to_have_text(
        ["timed out · upstream_timeout_total · connection refused", "error reply · 502 · upstream_error"]
    )
    expect(page.locator("tbody td:nth-child(4)").last).to_contain_text("0 s old")


def test_a_request_shows_its_changes_its_times_and_its_arrivals(visit: OpenPage) -> None:
    page = visit("#/requests/req-1")
    expect(page.locator(".way .bad")).to_have_count(0)
    expect(page.locator("p > code", has_text="images=content-parts")).to_have_count(1)
    expect(page.locator(".timeline .name")).to_have_text(["request body", "connect", "until the reply begins", "reply"])
    expect(page.locator(".timeline b")).to_have_text(["0.40 ms", "21 ms", "289 ms", "890 ms"])
    expect(page.locator(".arrivals")).to_contain_text("118 reads from 330 ms to 1.19 s. Longest gap: 110 ms at 480 ms.")
    page.locator("summary", has_text="from the client").click()
    expect(page.locator(".body pre").first).to_contain_text('"content": "What\'s this?"')


def test_a_failed_request_is_red_at_its_hop_and_leads_to_its_error(visit: OpenPage) -> None:
    page = visit("#/requests")
    page.get_by_text("upstream_closed").click()
    failed = page.locator(".way .bad[data-hop]")
    expect(failed).to_have_count(2)
    assert failed.evaluate_all("(all) => all.map(({dataset}) => dataset.hop)") == ["upstream:corp-eu", "upstream:corp"]
    expect(page.locator(".way .wire.bad")).to_have_count(2)
    expect(page.locator(".problem")).to_contain_text("Check the upstream's log")
    page.get_by_role("link", name="What upstream_closed means").click()
    expect(page.get_by_role("heading", name="upstream_closed")).to_be_visible()


def test_the_parts_of_a_split_call_are_listed_and_the_failed_one_first(visit: OpenPage, fake: Fake) -> None:
    parts = [documents.attempt(1) for _ in range(30)]
    parts[29].update(outcome="error_reply", code="upstream_error", upstream_request_id="up-29")
    fake.stories["req-1"]["attempts"] = [documents.attempt(1, head_s=None, parts=parts)]
    page = visit("#/requests/req-1")
    expect(page.locator(".timeline")).to_contain_text("part 2")
    expect(page.locator(".timeline")).not_to_contain_text("no reply")
    rows = page.locator("table", has_text="Upstream's id").locator("tbody tr")
    expect(rows).to_have_count(21)
    expect(rows.nth(1)).to_contain_text("1, part")
    expect(rows.nth(1)).to_contain_text("up-29")
    expect(page.get_by_text("And 10 parts more.")).to_be_visible()


def test_an_unknown_model_of_an_upstream_begins_with_the_name_in_the_client_and_those_of_the_list(
    visit: OpenPage, fake: Fake
) -> None:
    message = "The model `bge` does not exist"
    error = {"kind": "upstream_error", "code": "model_not_found", "case": "unknown_model", "hop": "upstream:corp"}
    fake.stories["req-2"]["error"].update(error, message=message, action="Wait.")
    page = visit("#/requests/req-2", locale="zh-CN")
    problem = page.locator(".problem")
    expect(problem).to_contain_text(re.compile("改正客户端（例如 RAGFlow）中的模型名称。模型列表中有：.+处理："))
    meaning = problem.get_by_role("link", name="的含义")
    expect(meaning).to_have_text("model_not_found 的含义")
    meaning.click()
    expect(page).to_have_url(re.compile("#/errors/upstream_error.code=model_not_found$"))
    expect(page.locator("main")).to_contain_text("gatepass 或上游不认识该模型")


def test_the_command_that_tests_the_hop_is_shown_unless_the_action_has_it(visit: OpenPage, fake: Fake) -> None:
    test = "gatepass doctor bge --operation rerank --call"
    error = fake.stories["req-2"]["error"]
    error.update(message=f"Not Found. `{test}` tries it.", action="Wait.", test=test)
    page = visit("#/requests/req-2")
    expect(page.locator(".problem")).to_contain_text(f"Test the hop: {test}")
    error.update(action=f"Run `{test}`.")
    page.reload()
    expect(page.locator(".problem")).to_contain_text(f"Run {test}.")
    expect(page.locator(".problem")).not_to_contain_text("Test the hop")


def test_a_refused_sign_in_says_why_in_chinese(open_page: OpenPage, url: str, fake: Fake) -> None:
    page = open_page(url, locale="zh-CN")
    for code, shown in {
        "invalid_api_key": "gatepass 不认识这个 key，或它已过期。",
        "role_not_allowed": (
            "角色 caller 不能登录。用 gatepass keys new --name NAME --role viewer --write 创建 key，"
            "再运行 gatepass reload。使用令牌时，在 access.jwt 的相应行中设置 role: viewer。"
        ),
    }.items():
        fake.refusal = code
        page.get_by_label("角色为 viewer 或 admin 的 key 或令牌").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_text(shown, exact=True)).to_be_visible()


def test_the_action_of_a_failed_request_is_on_the_first_screen_of_a_phone(visit: OpenPage, fake: Fake) -> None:
    fake.stories["req-2"]["error"]["cause"] = "The issuer refused the client. " * 12
    page = visit("#/requests/req-2", phone=True)
    expect(page.locator(".problem p").nth(1)).to_be_in_viewport(ratio=1)


def test_unknown_names_are_one_row_with_the_last_of_them(visit: OpenPage, fake: Fake) -> None:
    first, second, *_ = fake.use["use"]
    failed = {"errors": 2, "requests": 2, "ok_at": 0, "codes": [documents.counted("model_not_found", 2)]}
    wrong = {**second, **failed, "upstream": "", "unknown": True, "durations_s": [], "tokens": 0}
    fake.use["use"] = [
        first,
        {**wrong, "model": "gpt4", "callers": {"rag": 2}, "last_at": 2.0},
        {**wrong, "model": "gpt-4-o", "callers": {"": 2}, "last_at": time.time() - 9},
    ]
    page = visit("#/models")
    last = page.get_by_role("table", name="Models").locator("tbody tr").last.locator("td")
    expect(last.first).to_have_text("unknown names: 2, last gpt-4-o, by no valid key")
    expect(last.nth(3)).to_have_text("4")
    expect(last.nth(4)).not_to_contain_text("failing")
    expect(page.get_by_text("gpt4", exact=True)).to_have_count(0)


def test_a_model_shows_its_upstreams_uses_and_errors(visit: OpenPage, fake: Fake) -> None:
    first, second, *_ = fake.use["use"]
    failed = {
        **second,
        "errors": 41,
        "codes": [documents.counted("c", 41, "upstream_error")],
        "callers": {"": 1, "rag": 40},
        "ok_at": 3.0,
        "failed_at": [2.0, time.time() - 9],
    }
    fake.use["use"] = [
        first,
        {**second, "model": "gpt-4o"},
        {**second, "model": "unlisted"},
        {**failed, "model": "o3-mini"},
    ]
    page = visit("#/models")
    rows = page.get_by_role("table", name="Models").locator("tbody tr")
    used = rows.filter(has_text="gpt-4o").first.locator("td")
    expect(rows.first.locator("td").nth(4)).to_have_text(
        re.compile(r"^41 \(100 %\) cfailing since \d\d:\d\d:\d\d · no valid key, rag$")
    )
    errors = "3 (1.2 %) 2 × upstream_closed1 × overloadedragflow"
    expect(used).to_have_text(["gpt-4o", "yes", "corp, corp-eu", "253", errors, "270 k", "900 ms · 2.50 s", "16:59:30"])
    expect(used.nth(0).locator("a")).to_have_attribute("href", "#/requests?model=gpt-4o")
    expect(used.nth(4).locator("a").first).to_have_attribute("href", "#/requests?outcome=error&model=gpt-4o")
    code = used.nth(4).locator("a").nth(1)
    closed = "code=upstream_closed&kind=upstream_closed"
    expect(code).to_have_attribute("href", f"#/requests?outcome=error&model=gpt-4o&{closed}")
    expect(rows.filter(has_text="unlisted").locator("td")).to_have_text(
        ["unlisted", "no", "corp-eu", "41", "0", "80,000", "900 ms · 2.50 s", "16:59:30"]
    )
    expect(rows.filter(has_text="claude-sonnet").locator("td")).to_have_text(
        ["claude-sonnet", "yes", "openai", "0", "0", "0", "–", "–"]
    )


def test_a_silent_stream_is_silent_until_now(visit: OpenPage, fake: Fake) -> None:
    page = visit("#/requests/run-1")
    expect(page.locator(".heading .muted").last).to_contain_text("for 3.10 s")
    expect(page.locator(".timeline li").last).to_have_text("reply until now2.79 s")
    expect(page.locator(".arrivals")).to_contain_text("Silent for 1.91 s.")
    fake.stories["run-1"]["duration_s"] = 4.6
    expect(page.locator(".arrivals")).to_contain_text("Silent for 3.41 s.")


def test_a_request_that_was_repeated_has_no_red_step(visit: OpenPage) -> None:
    page = visit("#/requests/req-3")
    expect(page.locator(".way .card", has_text="rejected, sent again with a rule")).to_have_count(1)
    expect(page.locator(".bad")).to_have_count(0)
    expect(page.locator("td[data-label=Attempt]")).to_have_text(["1", "2, with a learned rule"])
    expect(page.locator("td[data-label=Connect]")).to_have_text(["pooled", "< 0.1 ms"])
    expect(page.get_by_text("closed first by")).to_have_count(0)
    expect(page.locator(".heading .muted").last).to_contain_text("16:59:57 UTC")


def test_a_caller_by_a_token_is_shown_with_what_the_token_calls_it(visit: OpenPage, fake: Fake) -> None:
    person = {"caller": "people", "user": "ana@corp.example"}
    fake.summaries["requests"] = [documents.summary("req-1", 2, **person), documents.summary("req-2", 3)]
    fake.stories["req-1"].update(person)
    page = visit("#/requests")
    cells = page.locator("tbody td", has_text=re.compile("people|ragflow"))
    expect(cells).to_have_text(["ragflow", "people/ana@corp.example", "ragflow"])
    page = visit("#/requests/req-1")
    expect(page.locator(".heading .muted").last).to_contain_text("by people/ana@corp.example")
    expect(page.locator(".way .card").first).to_contain_text("people/ana@corp.example")


def test_a_request_without_bodies_starts_their_capture(visit: OpenPage, fake: Fake) -> None:
    page = visit("#/requests/req-2")
    expect(page.get_by_text("No rule changed the request.")).to_be_visible()
    expect(page.get_by_text("closed first by")).to_be_visible()
    page.get_by_role("button", name="Capture the next requests").click()
    expect(
        page.get_by_text(re.compile("The bodies of requests of ragflow to gpt-4o are captured until .* UTC"))
    ).to_be_visible()
    assert fake.received == [("POST", "capture", {"model": "gpt-4o", "caller": "ragflow", "for_s": 600})]


def test_curl_is_the_text_of_the_story_for_the_address_of_the_page(visit: OpenPage, url: str) -> None:
    page = visit("#/requests/req-1", permissions=["clipboard-read", "clipboard-write"])
    with page.expect_request(lambda request: "/api/curl/req-1" in request.url) as sent:
        page.get_by_role("button", name="Copy as curl").click()
    assert parse_qs(urlsplit(sent.value.url).query) == {"page": [url]}
    expect(page.get_by_text("Copied.")).to_have_count(1)
    assert evaluate(page, "navigator.clipboard.readText()") == documents.CURL


def test_an_admin_forgets_and_captures(visit: OpenPage, fake: Fake) -> None:
    page = visit("#/models")
    page.get_by_role("button", name="Forget stream=synth").click()
    expect(page.get_by_text("stream does not support true")).to_have_count(0)
    page.goto("#/requests")
    capture = page.locator("#capture")
    capture.locator("summary").click()
    capture.get_by_label("model").fill("gpt-4o")
    capture.get_by_role("button", name="Start").click()
    expect(capture).to_contain_text("Bodies of model gpt-4o are captured until")
    fake.capture.update(captured=2, held_bytes=2300)
    expect(capture).to_contain_text("2 requests, 2.2 KiB")
    capture.get_by_role("button", name="End the capture").click()
    expect(capture.locator("summary")).to_be_focused()
    assert fake.received == [
        (
            "POST",
            "learned/forget",
            {"upstream": "corp", "model": "o3-mini", "operation": "chat", "adapted": "stream=synth"},
        ),
        ("POST", "capture", {"model": "gpt-4o", "caller": None, "for_s": 600}),
        ("DELETE", "capture", None),
    ]


def test_doctor_calls_the_chosen_operation_and_shows_each_step_as_it_ends(visit: OpenPage, fake: Fake) -> None:
    fake.parts = Semaphore(1)
    page = visit("#/doctor")
    page.get_by_label("model", exact=True).fill("bge")
    page.get_by_label("operation").select_option("rerank")
    expect(page.get_by_label("with a real call")).to_be_checked()
    page.get_by_role("button", name="Test every hop").click()
    expect(page.locator(".steps .begun")).to_contain_text("configuration")
    fake.parts.release(2)
    expect(page.locator(".steps li[data-outcome=works]")).to_contain_text("configuration")
    expect(page.locator(".steps .begun")).to_contain_text("fetch a token")
    fake.parts.release(len(fake.doctor) - 3)
    expect(page.locator(".steps li[data-outcome=fails]")).to_contain_text("Set upstreams.corp.network.ca_file")
    expect(page.get_by_text("1 of 3 steps failed: upstream:corp")).to_be_visible()
    assert fake.received[-1] == ("POST", "doctor", {"model": "bge", "operation": "rerank", "call": True})


def diagnosed(visit: OpenPage, fake: Fake, steps: Sequence[documents.Document], **options: object) -> Page:
    """Return the page after a run of doctor with `steps`."""
    failed = sum(step["outcome"] == "fails" for step in steps)
    fake.doctor = [*(("step", step) for step in steps), ("end", {"failed": failed})]
    page = visit("#/doctor", **options)
    page.locator("main form [type=submit]").click()
    return page


FAILED_CALL = {
    "hop": "upstream:corp",
    "what": "call",
    "outcome": "fails",
    "why": "chat with gpt-4o: 429 upstream_error: Rate limit reached",
    "advice": "Wait, or ask `its owner` for a higher limit.",
    "why_zh": "请求被上游限流。",
    "advice_zh": "稍后重试，或请上游管理员提高限额。",
    "seconds": 0.1,
    "error": "upstream_error",
}
UNLISTED = {
    **FAILED_CALL,
    "hop": "upstream:eu",
    "what": "models",
    "why": "the list has no model gpt-5",
    "advice": "Correct the name of the model.",
    "why_zh": "模型列表中没有 gpt-5",
    "advice_zh": "修正模型的名称。",
    "error": "",
}


def test_a_failed_step_of_doctor_is_in_the_language_of_the_page(visit: OpenPage, fake: Fake) -> None:
    page = diagnosed(visit, fake, [FAILED_CALL, UNLISTED], locale="zh-CN")
    expect(page.locator(".steps .bad p")).to_have_text(
        [
            *("请求被上游限流。", f"原文：{FAILED_CALL['why']}"),
            *("处理：稍后重试，或请上游管理员提高限额。", "模型列表中没有 gpt-5", "处理：修正模型的名称。"),
        ]
    )


def test_the_end_of_a_run_has_a_chinese_full_stop_between_its_sentences(visit: OpenPage, fake: Fake) -> None:
    fake.use["use"] = []
    fake.doctor = [("step", {**FAILED_CALL, "model": "gpt-4o"}), ("end", {"failed": 1})]
    page = visit("#/doctor", locale="zh-CN")
    page.locator("main form [name=call]").check()
    page.locator("main form [type=submit]").click()
    expect(page.locator("main > [role=status]")).to_have_text(
        "1 步中有 1 步失败：upstream:corp。4 个模型中有 1 个被调用：gpt-4o。"
    )


def test_doctor_names_each_model_of_a_failed_hop_once(visit: OpenPage, fake: Fake) -> None:
    """Two operations had one upstream, and the line named the other models twice."""
    rest = {"model": "*", "targets": [{"upstream": "corp", "model": None}], "capabilities": {}}
    fake.models["routes"] = [{**rest, "operations": [name]} for name in ("embeddings", "rerank")]
    page = visit("#/doctor")
    page.get_by_role("button", name="Test every hop").click()
    expect(page.locator(".hop.bad .hit")).to_have_text("; models: each other model")


def test_each_hop_of_doctor_has_one_line_with_its_outcome_and_time(visit: OpenPage, fake: Fake) -> None:
    hops = ("credential:corp", "upstream:corp", "upstream:eu")
    good = {"what": "connect", "outcome": "works", "why": "It accepts.", "advice": "", "seconds": 0.25}
    models = {**good, "what": "models", "outcome": "skipped", "hop": "upstream:eu"}
    steps = [{**good, "hop": hop} for hop in (*hops, "credential:corp")]
    page = diagnosed(visit, fake, [*steps, models])
    end = "No step failed. No model was called: the checkbox “with a real call of the model” does that."
    expect(page.get_by_text(end, exact=True)).to_be_visible()
    expect(page.locator(".hop summary")).to_have_text(
        ["✓ credential:corp works, 500 ms", "✓ upstream:corp works, 250 ms", "– upstream:eu skipped, 500 ms"]
    )
    expect(page.locator(".steps li:visible")).to_have_count(0)


def test_doctor_names_the_models_that_it_called_and_those_that_fail(visit: OpenPage, fake: Fake) -> None:
    good = {**FAILED_CALL, "outcome": "works", "why": "chat with gpt-4o: 200", "advice": "", "error": ""}
    listed = {**good, "what": "models", "outcome": "unproven", "advice": "The calls decide.", "why": "It has no list."}
    fake.doctor = [
        ("step", one) for one in (listed, *({**good, "what": what, "model": "gpt-4o"} for what in ("call", "stream")))
    ]
    fake.doctor.append(("end", {"failed": 0}))
    fake.use["use"][1].update(errors=30)
    fake.status["upstreams"]["corp"]["health"] = "failing"
    page = visit("#/doctor")
    end = page.locator("main > [role=status]")
    expect(end).to_contain_text("calls no model and costs nothing")
    expect(end).to_contain_text("Fails: upstream corp")
    page.get_by_label("with a real call").check()
    page.get_by_role("button", name="Test every hop").click()
    expect(end).to_have_text("No step failed. 1 of 4 models called: gpt-4o. Not called, and failing in memory: bge-m3")
    expect(end.locator("a.failed")).to_have_attribute("href", "#/requests?outcome=error&model=bge-m3")
    expect(page.locator(".hop summary")).to_have_text("✓ upstream:corp works, 300 ms")
    expect(page.locator(".steps li:visible")).to_have_count(0)


def test_a_failed_step_of_doctor_is_the_first_of_its_hop_and_in_sight(visit: OpenPage, fake: Fake) -> None:
    good = {**FAILED_CALL, "outcome": "works", "error": ""}
    steps = [{**good, "what": f"step {number}"} for number in range(20)]
    others = [{**good, "hop": f"upstream:u{number}"} for number in range(20)]
    failed = [FAILED_CALL, {**FAILED_CALL, "what": "stream"}]
    page = diagnosed(visit, fake, [*others, *steps, *failed], phone=True)
    expect(page.get_by_text("2 of 42 steps failed: ")).to_be_visible()
    expect(page.locator(".hop.bad summary")).to_contain_text("; models: gpt-4o, o3-mini")
    assert page.locator(".steps li").first.text_content().startswith("✕call")
    expect(page.locator(".steps li").first).to_be_in_viewport(ratio=1)


def test_without_declared_models_the_recent_ones_are_suggested(visit: OpenPage, fake: Fake) -> None:
    fake.models["routes"] = [{"model": "*", "operations": [], "targets": [], "capabilities": {}}]
    page = visit("#/doctor")
    names = page.locator("#doctor-models option")
    expect(names).to_have_count(5)
    assert names.evaluate_all("(all) => all.map(({value}) => value)") == [
        "gpt-4o",
        "o3-mini",
        "bge-m3",
        "claude-sonnet",
        "gpt-4o-mini",
    ]
    page.get_by_label("with a real call").check()
    page.get_by_role("button", name="Test every hop").click()
    expect(page.get_by_text("Name the model of the real call.")).to_be_visible()
    assert fake.received == []


def test_the_menu_of_a_phone_keeps_the_header_in_place(visit: OpenPage) -> None:
    page = visit(phone=True)
    expect(page.get_by_text("Live")).to_be_visible()
    brand = page.locator(".brand")
    before = brand.bounding_box()
    page.get_by_role("button", name="Menu").click()
    expect(page.get_by_role("link", name="Doctor")).to_be_visible()
    assert brand.bounding_box() == before


def test_without_keys_nobody_signs_in_or_out(open_page: OpenPage, url: str, fake: Fake) -> None:
    fake.session.update(login=False, signed_in={"name": "local", "role": "admin"})
    page = open_page(url)
    expect(page.get_by_text("Live")).to_be_visible()
    expect(page.get_by_role("button", name="Sign out")).to_have_count(0)
    expect(page.get_by_role("link", name="Doctor")).to_be_visible()
