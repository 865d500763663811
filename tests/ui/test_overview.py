"""Each datum of the overview changes in the fake, and the picture in the browser follows."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.ui import documents
from tests.ui.conftest import ASK, OpenPage
from tests.ui.fake import Fake

CORP = "[data-credential=corp]"
MARK = f"{CORP} .mark >> nth=0"
UPSTREAM = "[data-upstream=corp]"
Change = Callable[[dict[str, Any]], None]


def set_in(*path: Any, to: Any) -> Change:
    def change(data: dict[str, Any]) -> None:
        for step in path[:-1]:
            data = data[step]
        data[path[-1]] = to

    return change


def credential(**members: Any) -> Change:
    return lambda data: data["status"]["credentials"]["corp"].update(members)


def upstream(**members: Any) -> Change:
    return lambda data: data["status"]["upstreams"]["corp"].update(members)


def one_more(members: str) -> Change:
    return lambda data: data["status"][members].update(another=data["status"][members]["corp"])


def renewed(ago_s: float, *, ok: bool, reason: str = "due") -> Change:
    return credential(renewals=[{"at": documents.NOW - ago_s, "ok": ok, "reason": reason}])


def plot_of(title: str) -> str:
    return f".plot:has(h3:text-is('{title}'))"


def plot(title: str, line: int) -> str:
    return f"{plot_of(title)} .area svg > path:nth-of-type({line + 2})"


LAST = {
    "in_a_row": 3,
    "id": "req-9",
    "code": "upstream_connect",
    "kind": "upstream_connect",
    "for_s": 40.0,
    "age_s": 12.3,
    "test": "gatepass doctor",
}
FAILING = upstream(health="failing", last_failed=LAST)
ENDING = [{"name": "a", "expires": "2026-01-31", "state": "expires soon"}]
AWAY = {"gpt-4o": [{"upstream": "corp", "model": "gpt-4o", "state": "ejected"}]}
CAPTURE = {"running": True, "until": documents.NOW, "held_bytes": 4096, "captured": 2}
OTHER = [i % 7 + 1 for i in range(documents.SLICES)]
DURATION = "Duration without errors"
TABLE, LIMITS = "table:has(caption:text-is('Callers'))", "table:has(caption:text-is('Limits'))"


def series(*path: Any, to: Any) -> Change:
    return set_in("traffic", "series", *path, to=to)


ROWS: dict[str, tuple[Change, str, str]] = {
    "life of a token": (credential(expires_in_s=60.0), f"{CORP} .left-bar", "width"),
    "lifetime": (credential(age_s=317.0), f"{CORP} .left-bar", "width"),
    "seconds left": (credential(expires_in_s=62.0), f"{CORP} .left", "text"),
    "lifetime in words": (credential(age_s=317.0), f"{CORP} .of", "text"),
    "planned renewal": (credential(next_try_in_s=10.0), f"{CORP} .due", "x"),
    "planned renewal in words": (credential(next_try_in_s=10.0), f"{CORP} .facts", "text"),
    "a renewal": (renewed(300, ok=True), MARK, "x1"),
    "a failed renewal": (renewed(77, ok=False), MARK, "class"),
    "reason of a renewal": (renewed(77, ok=True, reason="rejected"), f"{MARK} >> title", "text"),
    "fetches": (credential(fetches=13), f"{CORP} .facts", "text"),
    "failures": (credential(failures=4), f"{CORP} .facts", "text"),
    "failing": (credential(failing=True), CORP, "class"),
    "line to a failing credential": (credential(failing=True), "[data-link='to credential corp']", "class"),
    "last error": (credential(failing=True, last_error="invalid_client"), f"{CORP} .fault", "text"),
    "secret of a variable": (credential(needs_restart=True), f"{CORP} .fault", "text"),
    "rejected by": (credential(rejected_by={"corp-eu": 3.0}), f"{CORP} .fault", "text"),
    "state of a token": (credential(state="expired"), CORP, "data-state"),
    "no token": (credential(state="none", expires_in_s=None), f"{CORP} .left", "text"),
    "health": (upstream(health="failing"), UPSTREAM, "class"),
    "health in words": (upstream(health="unknown"), f"{UPSTREAM} .health", "text"),
    "last failure": (upstream(health="failing", last_failed=LAST), f"{UPSTREAM} .health a", "text"),
    "a target that is away": (set_in("status", "targets", to=AWAY), f"{UPSTREAM} .facts", "text"),
    "line to a failing upstream": (upstream(health="failing"), "[data-link='to upstream corp']", "class"),
    "in flight of an upstream": (upstream(in_flight=2), f"{UPSTREAM} .health", "text"),
    "dots of an upstream": (upstream(in_flight=2), "[data-dots='to upstream corp'] circle", "count"),
    "dots of a credential": (upstream(in_flight=1), "[data-dots='to credential corp'] circle", "count"),
    "error share": (upstream(errors_15m=200), f"{UPSTREAM} .part", "width"),
    "error share of relayed errors": (upstream(rejected_15m=200), f"{UPSTREAM} .facts", "text"),
    "error share in words": (upstream(errors_15m=200), f"{UPSTREAM} .facts", "text"),
    "share of the requests": (upstream(requests_15m=40), "[data-link='to upstream corp']", "stroke-width"),
    "connections": (upstream(open_connections=9), f"{UPSTREAM} .facts", "text"),
    "in flight": (set_in("status", "in_flight", to=2), ".flight", "text"),
    "dots of the clients": (set_in("status", "in_flight", to=2), "[data-dots=clients] circle", "count"),
    "draining": (set_in("status", "draining", to=True), ".standing", "text"),
    "ready": (set_in("status", "ready", to=False), ".standing", "class"),
    "requests a minute": (series("requests", to=OTHER), ".rate", "text"),
    "errors in all": (series("errors", to=OTHER), ".strip a >> nth=0", "text"),
    "requests in all": (series("requests", to=OTHER), ".strip dd >> nth=0", "text"),
    "first token in all": (series("ttft_s", "all", "p50", to=2.5), ".strip dd >> nth=2", "text"),
    "duration in all": (series("duration_s", "all", "p99", to=None), ".strip dd >> nth=3", "text"),
    "callers with errors": (set_in("traffic", "callers", to={"ragflow": 6}), ".strip dd >> nth=4", "text"),
    "since when a credential fails": (credential(state="none", failing_since=documents.NOW), f"{CORP} .of", "text"),
    "since when an upstream fails": (FAILING, f"{UPSTREAM} .health", "text"),
    "refused reload": (set_in("status", "reload_problems", to=["server.port: no"]), ".reload", "count"),
    "a key that expires": (set_in("status", "keys", to=ENDING), ".ending", "count"),
    "requests": (series("requests", to=OTHER), plot("Requests", 0), "d"),
    "errors": (series("errors", to=OTHER), plot("Requests", 1), "d"),
    "tokens in": (series("tokens_in", to=OTHER), plot("Tokens", 0), "d"),
    "tokens out": (series("tokens_out", to=OTHER), plot("Tokens", 1), "d"),
    **{
        f"{title} {name}": (series(member, name, to=[0.1 * value for value in OTHER]), plot(title, line), "d")
        for title, member in (("Time to first token", "ttft_s"), (DURATION, "duration_s"))
        for line, name in enumerate(("p50", "p95", "p99"))
    },
    "a legend": (series("duration_s", "p50", to=OTHER), f"{plot_of(DURATION)} .legend b >> nth=0", "text"),
    "a pause of a plot": (series("duration_s", "p50", 30, to=None), plot(DURATION, 0), "d"),
    "errors by code": (set_in("traffic", "errors", to=[documents.counted("upstream_closed", 9)]), ".codes li", "count"),
    "a lost store": (set_in("status", "store", to={"state": "down", "reason": "refused"}), ".store", "count"),
    "an upstream more": (one_more("upstreams"), ".upstream", "count"),
    "an upstream less": (lambda data: data["status"]["upstreams"].pop("openai"), ".upstream", "count"),
    "an upstream without a credential": (upstream(credential=None), ".branch", "count"),
    "a credential more": (one_more("credentials"), ".credential", "count"),
    "capture": (set_in("status", "capture", to=CAPTURE), ".captured", "text"),
    "use of a caller": (set_in("callers", "callers", 1, "requests", to=312), f"{TABLE} >> tr >> nth=2", "text"),
    "in flight of a caller": (set_in("callers", "callers", 0, "in_flight", to=4), f"{TABLE} >> tr >> nth=1", "text"),
    "more callers": (set_in("callers", "all_callers", to=200), "section > p.small >> nth=0", "text"),
    "a limit": (set_in("limits", "limits", 0, "left", to=0), f"{LIMITS} .failed", "count"),
    "a limit less": (lambda data: data["limits"]["limits"].pop(), f"{LIMITS} tr", "count"),
}  # fmt: skip
"""What changes, what shows it, and which part of that."""


@pytest.fixture
def page(open_page: OpenPage, url: str, fake: Fake) -> Page:
    fake.sign_in()
    page = open_page(url)
    expect(page.locator(".upstream")).to_have_count(3)
    return page


def seen(page: Page, selector: str, part: str) -> str | None:
    """Return an attribute of what `selector` finds, its text, or how many there are."""
    found = page.locator(selector)
    if part == "count":
        return str(found.count())
    value: str | None = found.text_content() if part == "text" else found.get_attribute(part)
    return value


def test_the_picture_follows_each_datum(page: Page, fake: Fake, faults: list[str]) -> None:
    still = []
    for number, (name, (change, selector, part)) in enumerate(ROWS.items(), start=10):
        fake.status, fake.traffic = {**documents.status(), "in_flight": number}, documents.traffic()
        fake.callers, fake.limits = documents.callers(), documents.limits()
        page.evaluate(ASK)
        expect(page.locator(".flight")).to_have_text(str(number))
        before = seen(page, selector, part)
        assert before is not None, name
        change(vars(fake))
        page.evaluate(ASK)
        for _ in range(500):
            if seen(page, selector, part) != before:
                break
            page.wait_for_timeout(20)
        else:
            still.append(name)
    assert (still, faults) == ([], [])


def test_a_bar_has_the_length_of_its_datum(page: Page, fake: Fake) -> None:
    bar = page.locator(f"{CORP} .left-bar")
    expect(bar).to_have_attribute("width", "67.92%")
    for left_s, width in ((240.0, "100.00%"), (120.0, "50.00%"), (0.0, "0.00%"), (300.0, "100.00%")):
        fake.status["credentials"]["corp"].update(expires_in_s=left_s, age_s=240.0 - left_s)
        page.evaluate(ASK)
        expect(bar).to_have_attribute("width", width)
    expect(page.locator(f"{UPSTREAM} .part")).to_have_attribute("width", "1.46%")


def test_two_hundred_updates_leave_the_picture_as_large_as_it_was(page: Page, fake: Fake) -> None:
    size = page.locator("main *").count()
    for number in range(200):
        fake.status["in_flight"] = number % 5
        fake.status["at"] += 1
        page.evaluate(ASK)
        page.wait_for_timeout(5)
    fake.status = documents.status()
    fake.status["upstreams"]["corp"]["open_connections"] = 9  # draws nothing more
    page.evaluate(ASK)
    expect(page.locator(f"{UPSTREAM} .facts")).to_contain_text("9 connections")
    assert page.locator("main *").count() == size
