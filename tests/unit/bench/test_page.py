"""The page says what is missed and what was not measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bench.bar import BARS, Figures, judge
from bench.page import markdown
from bench.report import aligned, report
from bench.sample import Sample
from bench.series import Outcome
from bench.soak import Rest, is_flat
from bench.why import WHY
from bench.workloads import WORKLOADS

SAMPLE = Sample(2000.0, 0.0, 1.0, 900.0, 1900.0, -1.0, -1.0, -1.0, 80.0, 0.5, 0.4, 50.0, 0)
FIGURES = Figures({("gatepass", "chat-64"): SAMPLE, ("nginx", "chat-64"): SAMPLE}, {("gatepass", "idle_mb"): 90.0})
OUTCOMES = {"gatepass": Outcome("ours"), "litellm": Outcome("a peer", absent="it does not install")}
MACHINE = {"cpu": "a CPU", "cores": 2, "kernel": "6.1", "python": "3.11", "nginx": "1.22", "load before the run": 0.0}
DOCUMENT: dict[str, Any] = {
    "command": "make bench",
    "date": None,
    "machine": MACHINE,
    "source": "0123456789abcdef",
    "versions": {"gatepass": {"uvicorn": "0.54"}},
    "rounds": 3,
    "window_s": 2.0,
    "took_s": 600,
}


def page(**changed: Any) -> str:
    return markdown(FIGURES, judge(FIGURES), OUTCOMES, WORKLOADS, DOCUMENT | changed)


def test_page_says_what_is_missed_and_by_how_much() -> None:
    assert "- Missed: idle, memory: 90 MB where ≤ 60 MB is wanted, 1.5 times as much." in page()
    assert "| idle | memory | ≤ 60 MB | 90 MB | missed: 1.5 times as much |" in page()


def test_page_says_why_a_promise_is_missed_and_what_would_lift_it() -> None:
    slow = Figures({("gatepass", "chat-64"): SAMPLE, ("nginx", "chat-64"): replace(SAMPLE, requests_s=99_999.0)}, {})
    words = markdown(slow, judge(slow), OUTCOMES, WORKLOADS, DOCUMENT)
    assert "x nginx is wanted, 16.7% of it.\n  A chat is some" in words
    promises = {(bar.work, bar.measure) for bar in BARS}
    assert set(WHY) <= promises


def test_page_shows_a_digit_more_where_a_miss_would_look_like_its_limit() -> None:
    nearly = replace(SAMPLE, requests_s=SAMPLE.requests_s / 0.1196)
    near = Figures({("gatepass", "chat-64"): SAMPLE, ("nginx", "chat-64"): nearly}, {})
    words = markdown(near, judge(near), OUTCOMES, WORKLOADS, DOCUMENT)
    assert "0.1196 x nginx where ≥ 0.12 x nginx is wanted, 99.7% of it." in words
    assert "| ≥ 0.12 x nginx | 0.1196 x nginx | missed: 99.7% of it |" in words


def test_page_says_which_rate_the_rig_limited() -> None:
    theirs = replace(SAMPLE, requests_s=4000.0, gateway_cpu=0.5, rig_cpu=1.0, cpu_us=20.0)
    limited = Figures({("gatepass", "chat-64"): SAMPLE, ("nginx", "chat-64"): theirs}, {})
    words = markdown(limited, judge(limited), OUTCOMES, WORKLOADS, DOCUMENT)
    assert "- By CPU alone: small chat, 64 at a time, requests/s: 0.25 x nginx. The rig was the limit there" in words
    assert "By CPU alone" not in page()


def test_page_names_the_code_that_was_measured() -> None:
    assert "nginx 1.22; `0123456789abcdef` stands for the code in src/\n(`" in page()


def test_page_says_what_is_met() -> None:
    assert "| small chat, 64 at a time | requests/s | ≥ 0.12 x nginx | 1 x nginx | met |" in page()


def test_page_names_a_candidate_that_was_not_measured_with_its_reason() -> None:
    assert "- `litellm`: a peer. **Not measured: it does not install**" in page()
    assert "not measured: litellm: it does not install" in report(FIGURES, judge(FIGURES), OUTCOMES, WORKLOADS)


def test_page_names_what_no_run_measured() -> None:
    assert "- Not measured: ready, time, ≤ 0.6 s." in page()


def test_page_leaves_the_date_out_unless_it_is_given() -> None:
    assert "Measured on 2 cores of a CPU" in page()
    assert "Measured on 1 May on 2 cores of a CPU" in page(date="1 May")


def test_page_warns_of_a_busy_machine() -> None:
    assert "noisy" not in page()
    assert "(load 1.9): these figures are noisy" in page(machine=MACHINE | {"load before the run": 1.9})


def test_page_leaves_cells_empty_that_have_no_figure() -> None:
    assert "| gatepass | 2,000 | 900 | 1,900 | 80.0 | 0.50 | 0.40 | 50 | 0 |" in page()


def test_page_shares_a_profile_out() -> None:
    profile = {"parts": [{"says": "A chat", "us": 200.0, "kernel": 0.25, "stages": [("admit", 50.0)]}]}
    assert "### A chat: 200.0 µs, 25% of it in the kernel" in page(profile=profile)
    assert "| admit | 50.0 | 25% |" in page(profile=profile)


def test_page_says_why_there_is_no_profile() -> None:
    assert "Not taken: no ptrace" in page(profile={"absent": "no ptrace"})


def test_page_shows_how_the_rate_grows_with_workers() -> None:
    shown = page(workers={"table": [["", "workers", "x one"], ["chat-64", "2", "1.60"]]})
    assert "| chat-64 | 2 | 1.60 |" in shown
    assert "make bench-workers" not in page()


def test_page_shows_the_soak_at_four_moments() -> None:
    rests = [{"after_s": at, "memory_mb": 50} for at in range(10)]
    assert [line for line in page(soak={"flat": False, "rests": rests}).splitlines() if line.startswith("| ")][-4:] == [
        "| 0 | 50 |",
        "| 3 | 50 |",
        "| 6 | 50 |",
        "| 9 | 50 |",
    ]
    assert "memory is **not flat**" in page(soak={"flat": False, "rests": rests})


def test_words_stand_left_and_numbers_right() -> None:
    assert aligned([["", "MB"], ["a", "1"], ["bcd", "1,000"]]) == ["        MB", "a        1", "bcd  1,000"]


def rests(*memory_mb: float, files: int = 10) -> list[Rest]:
    return [Rest(0.0, memory, files, 0, 0, 0, 0) for memory in memory_mb]


def test_soak_is_flat_once_it_is_warm() -> None:
    assert is_flat(rests(50, 90, 100, 100, 101, 100))


def test_soak_that_grows_is_not_flat() -> None:
    assert not is_flat(rests(50, 60, 70, 80, 90, 100))


def test_soak_that_leaks_files_is_not_flat() -> None:
    assert not is_flat([*rests(50, 50, 50, 50, 50), *rests(50, files=11)])
