"""Replay the corpus, and fuzz each family for a number of runs, which `GATEPASS_FUZZ_RUNS` sets."""

import os

import pytest

from tests.fuzz import campaign
from tests.fuzz.targets import FAMILIES

RUNS = int(os.environ.get("GATEPASS_FUZZ_RUNS", "400"))


@pytest.mark.parametrize(
    "path", [path for name in FAMILIES for path in campaign.paths(name)], ids=lambda path: path.name
)
def test_kept_input_breaks_no_promise(path):
    campaign.replay(path.parent.name, path.read_bytes())


@pytest.mark.parametrize("name", FAMILIES)
def test_mutated_corpus_breaks_no_promise(name, tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "FOUND", tmp_path)
    runs = RUNS if name == "stream" else RUNS // 4
    report = campaign.fuzz(name, seed=20, runs_at_most=runs)
    assert report.runs == runs
    assert "no promise broken" in str(report)
