"""Replay the corpus, and fuzz each family for a number of runs, which `GATEPASS_FUZZ_RUNS` sets."""

import os
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gatepass.json_body import TopLevel
from gatepass.proxy.uploads import Form
from gatepass.server.parser import RequestParser
from gatepass.sse.event import Framer
from gatepass.tokens.lifetime import LifetimeSource, Token, TokenKind
from gatepass.types import Secret
from tests.fuzz import campaign, parsers
from tests.fuzz.mutation import LONGEST_BYTES, mutated
from tests.fuzz.targets import FAMILIES, Family

SOURCE = Path(__file__).parents[2] / "src"
RUNS = int(os.environ.get("GATEPASS_FUZZ_RUNS", "400"))


@pytest.mark.parametrize(
    "path", [path for name in FAMILIES for path in campaign.paths(name)], ids=lambda path: path.name
)
def test_kept_input_breaks_no_promise(path):
    campaign.replay(path.parent.name, path.read_bytes())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_traced_part_of_the_source_exists(name):
    """Otherwise no run reaches a new line, and the campaign mutates at random."""
    assert any(FAMILIES[name].traced in str(path) for path in SOURCE.rglob("*.py"))


@pytest.mark.parametrize("name", FAMILIES)
def test_mutated_corpus_breaks_no_promise(name, tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "FOUND", tmp_path)
    runs = RUNS if name == "stream" else RUNS // 4
    report = campaign.fuzz(name, seed=20, runs_at_most=runs)
    assert report.runs == runs
    assert "no promise broken" in str(report)


def test_a_seed_and_a_number_of_runs_are_one_campaign(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "FOUND", tmp_path)
    one, other = (campaign.fuzz("stream", seed=7, runs_at_most=100) for _ in range(2))
    assert one.runs == other.runs == 100
    assert (one.kept, one.edges) == (other.kept, other.edges)


def test_broken_promise_is_reported_with_its_input(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "FOUND", tmp_path)

    def target(body, random):
        raise AssertionError("broken")

    monkeypatch.setattr(campaign, "FAMILIES", {"head": Family(((target, 1),), 1, "gatepass")})
    with pytest.raises(campaign.PromiseBroken, match=r"target, seed 1, input .*broken"):
        campaign.replay("head", campaign.corpus("head")[0])
    assert (tmp_path / "target-1").read_bytes() == campaign.corpus("head")[0]


def test_input_that_blocks_the_event_loop_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "FOUND", tmp_path)
    monkeypatch.setattr(campaign, "MAX_CPU_S", 0.0)
    with pytest.raises(campaign.PromiseBroken, match="of CPU"):
        campaign.replay("head", campaign.corpus("head")[0])


def _drop_a_byte(self, piece):
    return piece[1:]


def _lower(self, data):
    RequestParser.feed(self, data.lower() if self._target else data)


WEAKENED: dict[str, tuple[str, Any]] = {
    "framing": ("Framer", type("Weak", (Framer,), {"feed": _drop_a_byte})),
    "head": ("RequestParser", type("Weak", (RequestParser,), {"feed": _lower})),
    "body": ("read_body", lambda body: TopLevel(b"{}")),
    "form": (
        "Form",
        type("Weak", (Form,), {"as_model": lambda self, name: (self.body, (name,))}),
    ),
    "token": (
        "parse_token_response",
        lambda reply, *_: Token(Secret("a\r\nb"), 0.0, 1.0, TokenKind.OPAQUE, LifetimeSource.REPLY),
    ),
    "config": ("load", lambda *_: dict[str, str]()["x"]),
}


@pytest.mark.parametrize("name", WEAKENED)
def test_a_weakened_reader_breaks_its_promise(name, tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "FOUND", tmp_path)
    monkeypatch.setattr(parsers, *WEAKENED[name])
    with pytest.raises(campaign.PromiseBroken):
        campaign.replay_corpus(name)


def test_mutations_are_the_same_for_one_seed_and_bounded():
    corpus = campaign.corpus("stream")
    made = [[mutated(corpus, random) for _ in range(300)] for random in (Random(7), Random(7))]
    assert made[0] == made[1]
    assert len(set(made[0])) > 250
    assert max(map(len, made[0])) <= LONGEST_BYTES
