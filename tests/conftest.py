"""Settings of all tests: examples of a property, the end of a hanging test, and the memory of the test processes."""

import asyncio
import gc
import io
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import httpx2
import pytest
from hypothesis import settings, strategies
from hypothesis.internal.conjecture import engine

os.environ["LC_ALL"] = "C.UTF-8"  # `show` and doctor print Chinese where the locale is Chinese
httpx2.alias_httpx()  # before respx imports httpx; `-p no:respx` keeps pytest from importing it first
settings.register_profile("few", deadline=None, max_examples=25, derandomize=True)  # a commit passes always or never
settings.register_profile("many", deadline=None, max_examples=500, print_blob=True)
settings.load_profile("few")  # `make stress` searches at random, with `--hypothesis-profile=many`

AGAIN_S = 1.0
"""A test past its time is interrupted this often until it ends: Hypothesis replays a hanging example."""
PEAK_MIB = 400
"""No test process may take more resident memory."""
COVERAGE_MIB = 200
"""Memory that coverage.py adds for 10,000 tests: it keeps the lines that ran, and reads the data of the run before."""
MANY_MIB = 200
"""Memory that Hypothesis adds with 500 examples of a property instead of 25, because it remembers them: 504 MiB
measured."""
NEWER_PYTHON_MIB = 100
"""Additional memory of CPython 3.12 and 3.13 for the same tests: 422 and 430 MiB measured, and 335 on 3.11."""

TESTS = Path(__file__).parent
LONGEST = (
    *("integration/test_examples", "integration/test_stop", "integration/test_control"),
    *("integration/test_serve", "integration/test_bytes", "fuzz/test_fuzz", "integration/test_reload"),
    *("integration/test_fuzz", "integration/test_secrets", "integration/servers/test_processes"),
    "integration/test_tool_streams",
    *("attacks/test_finished_requests", "attacks/test_memory_budget", "attacks/test_mcp_calls"),
    *("attacks/test_reply_limits", "attacks/test_requests", "attacks/test_large_events"),
    *("attacks/test_learned_rules", "attacks/test_rules", "attacks/test_replies"),
    *("docs/test_operations", "docs/test_tokens", "docs/test_contributing"),
    *("e2e/container/test_image", "e2e/test_hosts", "e2e/test_clients", "e2e/test_rolls", "e2e/test_store_health"),
    *("e2e/test_tracing", "e2e/test_chart_rolls", "e2e/test_limits", "e2e/test_traffic", "e2e/test_other_issuers"),
    "e2e/test_caller_tokens",
)
"""The files that take longest, although they have few tests. They begin first, so that none of them ends alone."""

_HUNG_AFTER = "hung_after_s"
_PEAKS = pytest.StashKey[dict[str, int]]()


@pytest.fixture(scope="session", autouse=True)
def _own_control_sockets() -> Iterator[None]:
    """No command of a test finds the control socket of another gatepass on this machine."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        patch.setattr("gatepass.server.listening.SHARED_MEMORY", folder)  # where one without that variable has it
        yield


@pytest.fixture(scope="session", autouse=True)
def _frozen_once() -> Iterator[None]:
    """Freeze the imported modules and the collected tests once, because a full collection walks them in 0.2 s.

    A server in this process does not freeze, because no code would unfreeze its objects when it ends. Each stopped
    server would then keep a megabyte and more.
    """
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "freeze", lambda: None)
        yield
    gc.unfreeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(_HUNG_AFTER, "seconds after which a phase of a test is ended as hung", default="300")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_PEAKS] = {}
    # A quarter is left to Hypothesis: it reports the smallest counterexample that it has by then.
    engine.MAX_SHRINKING_SECONDS = _hung_after_s(config) / 4  # type: ignore[assignment]  # compared with a clock


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Let Hypothesis compute its table of characters before a process holds all tests: once, with 200 MiB."""
    strategies.text().validate()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files: LONGEST, then those with most tests. `make test` gives them to its processes in this order."""
    tests = Counter(item.path for item in items)
    places = {TESTS / f"{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (places.get(item.path, len(places)), -tests[item.path], item.path))


def _hung_after_s(config: pytest.Config) -> float:
    return float(config.getini(_HUNG_AFTER))


# a test that hangs


class Hung(Exception):
    """Raised inside a test that took too long. Hypothesis reports it with the example at which it happened."""


def _end(_: int, __: FrameType | None) -> None:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise Hung("this test took too long, and was ended here") from None
    tasks, stacks = asyncio.all_tasks(loop), io.StringIO()
    for task in tasks:
        task.print_stack(file=stacks)  # the traceback ends in the loop itself
    hung = Hung(f"this test took too long, while its tasks waited:\n{stacks.getvalue()}")
    if isinstance(loop, asyncio.BaseEventLoop):
        raise hung
    for task in tasks:  # uvloop logs what a signal handler raises, and goes on
        task.cancel(str(hung))


@pytest.hookimpl(wrapper=True)
def _ended_in_time(item: pytest.Item) -> Generator[None, Any, Any]:
    """End a phase of a test that hangs, so that the test fails and the run goes on.

    What holds the interpreter itself is ended by faulthandler_timeout, with the process; under xdist the run goes on.
    """
    before = signal.signal(signal.SIGALRM, _end)
    signal.setitimer(signal.ITIMER_REAL, _hung_after_s(item.config), AGAIN_S)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


pytest_runtest_setup = pytest_runtest_call = pytest_runtest_teardown = _ended_in_time


# memory


def _peak_mib() -> int:
    """The most resident memory that this process has had (proc(5), VmHWM)."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024


def _limit_mib(config: pytest.Config) -> int:
    many_mib = MANY_MIB if config.getoption("--hypothesis-profile", None) == "many" else 0
    newer_mib = NEWER_PYTHON_MIB if sys.version_info >= (3, 12) else 0
    return PEAK_MIB + newer_mib + many_mib + (COVERAGE_MIB if config.pluginmanager.hasplugin("_cov") else 0)


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, Any, Any]:
    result = yield
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["peak_mib"] = _peak_mib()
    else:
        session.config.stash[_PEAKS]["main"] = _peak_mib()
    if any(peak > _limit_mib(session.config) for peak in session.config.stash[_PEAKS].values()):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
    return result


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker of xdist has ended; one that crashed has no output."""
    peak: int | None = getattr(node, "workeroutput", {}).get("peak_mib")
    if peak is not None:
        node.config.stash[_PEAKS][node.gateway.id] = peak


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    peaks = config.stash[_PEAKS]
    each = ", ".join(f"{name} {peak}" for name, peak in sorted(peaks.items()))
    limit_mib = _limit_mib(config)
    is_over = max(peaks.values(), default=0) > limit_mib
    terminalreporter.write_line(f"peak resident memory: {each} MiB (limit {limit_mib})", red=is_over)
    skipped = [report.longrepr for report in terminalreporter.stats.get("skipped", ())]
    reasons = Counter(skip[2].removeprefix("Skipped: ") for skip in skipped if isinstance(skip, tuple))
    for reason, count in reasons.items():
        terminalreporter.write_line(f"skipped: {reason} ({count} tests)")
