"""Collect one row per class of hostile input and print them as a table: the report of `make attacks`.

A test names its class with a marker, and its cases are what it checks with the fixture `attack`, else what it measures:

    @pytest.mark.attack("trailer fields")
    @generated
    @given(trailers())
    def test_trailers_are_bounded(attack: Attack, trailer: bytes) -> None:
        with attack.on_loop():
            reader.feed(trailer)
        attack.check(reader.held_bytes <= LIMIT, trailer)

A class has a property over generated cases with kept ones (`@example`), or a list of cases.

`make attacks` runs more examples and fails if the loop was occupied for more than 50 ms. `make test` runs few
examples and allows ten times that, because the machine may be busy. Both measure the CPU time of the thread.
"""

import contextlib
import gc
import selectors
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from gc import freeze  # at import: later tests/conftest.py replaces it, so that servers do not freeze
from typing import Any

import pytest
from hypothesis import settings

from gatepass.server.process import COLLECT_AFTER

settings.register_profile("attacks", deadline=None, max_examples=200, print_blob=True)

LOOP_S = 0.5
"""Seconds that one input may occupy the loop in `make test`. `make attacks` sets 0.05 by `--loop-s`."""
_PROPERTY = "attack"


@dataclass
class Attack:
    """The results of a test for one class: a row of the table."""

    name: str
    cases: int = 0
    measured: int = 0
    got_through: list[object] = field(default_factory=list)
    loop_s: float = 0.0
    peak_bytes: int = 0
    allowed_bytes: int = 0

    def check(self, holds: bool, case: object) -> None:
        """Record `case` as got through, and fail, unless the property holds."""
        self.cases += 1
        if not holds:
            self.got_through.append(case)
        assert holds, f"{self.name}: got through: {case!r:.400}"

    @contextlib.contextmanager
    def on_loop(self) -> Iterator[None]:
        """Measure one synchronous piece of work that a server does in a callback of the event loop."""
        self.measured += 1
        began_s = time.thread_time()
        yield
        self.loop_s = max(self.loop_s, time.thread_time() - began_s)

    @contextlib.asynccontextmanager
    async def on_this_loop(self) -> AsyncIterator[None]:
        """Measure the longest iteration of the running loop: a server in this loop, and what else runs in it.

        An iteration ends where the loop waits for its sockets. A task that measured it would keep the loop busy, and
        the threads of a test would then wait 5 ms for the interpreter at each of their reads. The iteration that ends
        the block is not counted: in it the test's client joins a reply that a server wrote in an earlier one.
        """
        self.measured += 1
        thread, select, began_s = threading.get_ident(), selectors.DefaultSelector.select, time.thread_time()

        def timed(selector: selectors.DefaultSelector, timeout: float | None = None) -> Any:
            nonlocal began_s
            if threading.get_ident() != thread:
                return select(selector, timeout)
            self.loop_s = max(self.loop_s, time.thread_time() - began_s)
            try:
                return select(selector, timeout)
            finally:
                began_s = time.thread_time()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(selectors.DefaultSelector, "select", timed)
            yield

    @contextlib.contextmanager
    def memory(self, allowed_bytes: int) -> Iterator[None]:
        """Measure what Python allocates at most meanwhile, and fail above `allowed_bytes`: the formula of the class."""
        self.measured += 1
        tracemalloc.start()
        try:
            yield
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        if peak_bytes * max(self.allowed_bytes, 1) >= self.peak_bytes * allowed_bytes:  # the worst ratio is shown
            self.peak_bytes, self.allowed_bytes = peak_bytes, allowed_bytes
        assert peak_bytes <= allowed_bytes, f"{self.name}: {peak_bytes} bytes held, {allowed_bytes} by the formula"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--loop-s", type=float, default=LOOP_S, help="seconds that one input may occupy the event loop")


@pytest.fixture
def attack(request: pytest.FixtureRequest) -> Iterator[Attack]:
    marker = request.node.get_closest_marker("attack")
    assert marker is not None, "name the class: @pytest.mark.attack(...)"
    row = Attack(marker.args[0])
    threshold = gc.get_threshold()
    gc.collect()
    freeze()  # a server has no objects of earlier tests, whose collection takes up to 30 ms
    gc.set_threshold(COLLECT_AFTER)  # as in a running server
    yield row
    gc.set_threshold(*threshold)
    row.cases = row.cases or row.measured or int(row.loop_s > 0)
    figures = (row.name, row.cases, len(row.got_through), row.loop_s, row.peak_bytes, row.allowed_bytes)
    request.node.user_properties.append((_PROPERTY, figures))
    assert row.cases, f"{row.name}: no case was generated"
    allowed_s = request.config.getoption("--loop-s")
    assert row.loop_s <= allowed_s, f"{row.name}: the loop was occupied for {row.loop_s:.3f} s of {allowed_s} s"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows: dict[str, tuple[int, int, float, int, int]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) != "teardown":
                continue
            for key, figures in report.user_properties:
                if key == _PROPERTY:
                    name, cases, through, loop_s, peak, allowed = figures
                    before = rows.get(name, (0, 0, 0.0, 0, 0))
                    memory = max((peak, allowed), before[3:], key=lambda pair: pair[0] / max(pair[1], 1))
                    rows[name] = (before[0] + cases, before[1] + through, max(before[2], loop_s), *memory)
    if not rows:
        return
    terminalreporter.section("attacks")
    terminalreporter.write_line(
        f"{'class':<44} {'cases':>7} {'through':>7} {'loop ms':>8} {'peak KiB':>9} {'allowed':>9}"
    )
    for name, (cases, through, loop_s, peak, allowed) in sorted(rows.items()):
        held = f"{peak // 1024:>9} {allowed // 1024:>9}" if allowed else f"{'':>9} {'':>9}"
        terminalreporter.write_line(f"{name:<44} {cases:>7} {through:>7} {loop_s * 1000:>8.1f} {held}".rstrip())
