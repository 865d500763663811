"""The page shows the published figures, and names the missed bars and everything that was not measured."""

import json
from typing import Any

from bench.page import markdown, published
from bench.paths import PAGE, PUBLISHED
from bench.promises import PROMISES, Figures, check
from bench.reasons import REASONS
from bench.report import report
from bench.sample import Sample
from bench.series import Outcome
from bench.workloads import WORKLOADS

SAMPLE = Sample(2000.0, 0.0, 1.0, 900.0, 1900.0, -1.0, -1.0, -1.0, 80.0, 0.5, 0.4, 50.0, 0)
FIGURES = Figures({("gatepass", "chat-64"): SAMPLE, ("nginx", "chat-64"): SAMPLE}, {("gatepass", "idle_mb"): 90.0})
OUTCOMES = {"gatepass": Outcome("ours"), "litellm": Outcome("a peer", absent="it does not install")}
MACHINE = {"cpu": "a CPU", "cores": 2, "kernel": "6.1", "python": "3.11", "nginx": "1.22", "load before the run": 0.0}
DOCUMENT: dict[str, Any] = {
    "command": "make bench",
    "date": None,
    "machine": MACHINE,
    "commit": "89abcdef",
    "source": "0123456789abcdef",
    "versions": {"gatepass": {"uvicorn": "0.54"}},
    "rounds": 3,
    "window_s": 2.0,
    "took_s": 600,
    "profile": None,
    "soak": None,
}
LAST_RUN = json.loads(PUBLISHED.read_text())


def page(figures: Figures = FIGURES, **changed: Any) -> str:
    return markdown(published(DOCUMENT | changed, figures, OUTCOMES))


def test_the_page_shows_the_published_figures() -> None:
    """After a change of a text: `python -m bench.page`."""
    assert PAGE.read_text() == markdown(LAST_RUN)


def test_the_page_says_nothing_of_what_was_not_there() -> None:
    usual = page().replace("**Rig at its limit**", "")
    assert [text for text in ("at its limit.", "noisy") if text in usual] == []
    assert set(REASONS) <= {(promise.work, promise.measure) for promise in PROMISES}
    assert "not measured: litellm: it does not install" in report(FIGURES, check(FIGURES), OUTCOMES, WORKLOADS)
