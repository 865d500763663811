"""The kept corpus, and a few seconds of mutation: `GATEPASS_FUZZ_S` says how many (make fuzz: 600)."""

from __future__ import annotations

import os
from random import Random

import pytest

from gatepass.relay.repair.choices import Wishes
from gatepass.relay.repair.repair import Repair
from tests.fuzz import campaign
from tests.fuzz.mutation import LONGEST_BYTES, mutated
from tests.fuzz.targets import TARGETS, kept_bytes
from tests.unit.relay.documents import origin

SECONDS = float(os.environ.get("GATEPASS_FUZZ_S", "2"))


def test_kept_corpus_breaks_no_promise():
    assert len(campaign.corpus()) >= 20
    campaign.replay()


def test_mutated_corpus_breaks_no_promise(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "FOUND", tmp_path)
    report = campaign.fuzz(seed=20, seconds=SECONDS)
    assert report.runs > 20 * SECONDS
    assert "no promise broken" in str(report)


def test_a_seed_and_a_number_of_runs_are_one_campaign(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "FOUND", tmp_path)
    one, other = (campaign.fuzz(seed=7, runs_at_most=100) for _ in range(2))
    assert one.runs == other.runs == 100
    assert (one.kept, one.edges) == (other.kept, other.edges)


def test_broken_promise_is_reported_with_its_input(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "FOUND", tmp_path)

    def target(body, random):
        raise AssertionError("broken")

    monkeypatch.setattr(campaign, "TARGETS", ((target, 1),))
    with pytest.raises(campaign.Broken, match=r"target, seed 1, input .*broken"):
        campaign.replay()
    assert (tmp_path / "target-1").read_bytes() in campaign.corpus()


def test_mutations_are_the_same_for_one_seed_and_bounded():
    corpus = campaign.corpus()
    made = [[mutated(corpus, random) for _ in range(300)] for random in (Random(7), Random(7))]
    assert made[0] == made[1]
    assert len(set(made[0])) > 250
    assert max(map(len, made[0])) <= LONGEST_BYTES


def test_memory_of_a_shaper_is_measured_to_its_ends():
    repair = Repair(Wishes(), origin())
    before = kept_bytes(repair)
    repair._extras._held["x"] = {"deep": ["x" * 100_000]}
    assert 100_000 < kept_bytes(repair) - before < 102_000


def test_every_target_has_a_name_of_its_own():
    assert len({target.__name__ for target, _ in TARGETS}) == len(TARGETS) == 5
