"""Real clients from PyPI and npm, each in an environment of its own, through gatepass over a strict upstream.

The upstream refuses what it does not know, and its models refuse streams, temperatures, or answers that are no
streams. `python -m tests.e2e.clients --write` puts the table into docs/compatibility.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.clients.conversation import ROUNDS, whole
from tests.e2e.clients.measurement import CLIENTS, Side, Street, opened
from tests.e2e.clients.scenario import Case, cases
from tests.e2e.clients.table import shown, text
from tests.e2e.clients.upstream import COLD, PLAIN, STREAMING, WHOLE
from tests.e2e.quirks.assessment import Mark

CHECKED = [client.title for client in CLIENTS if client.runner == "try_openai.py"]
"""Those that hold every answer against the types of OpenAI's SDK."""


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Street]:
    with opened(tmp_path_factory.mktemp("clients")) as street:
        yield street


@pytest.fixture
def sides(street: Street, request: pytest.FixtureRequest) -> tuple[Side, Side]:
    """Measured as far as the test looks: the client of its `title`, or all. One client takes seconds, all a minute."""
    callspec = getattr(request.node, "callspec", None)
    for client in CLIENTS:
        if callspec is None or callspec.params["title"] == client.title:
            street.measure(client)
    return street.raw, street.through


@pytest.fixture
def raw(sides: tuple[Side, Side]) -> Side:
    """Straight at the upstream."""
    return sides[0]


@pytest.fixture
def through(sides: tuple[Side, Side]) -> Side:
    return sides[1]


@pytest.mark.parametrize("title", [client.title for client in CLIENTS])
def test_every_client_gets_what_it_asks_for(through: Side, title: str):
    assert through.wrong(title) == []


def test_gatepass_meets_nothing_that_it_did_not_expect(through: Side):
    assert [trace for traces in through.traces.values() for trace in traces] == []


@pytest.mark.parametrize("title", [client.title for client in CLIENTS if "chat" in client.kinds])
def test_straight_only_the_model_that_takes_all_answers_whole(raw: Side, title: str):
    whole = {case: verdict for case, verdict in raw.verdicts[title].items() if case.kind == "chat" and not case.streams}
    assert [case for case, verdict in whole.items() if verdict.mark is Mark.RIGHT] == [Case("chat", PLAIN)]


@pytest.mark.parametrize("title", CHECKED)
def test_every_answer_and_chunk_is_valid_by_the_types_of_the_sdk(through: Side, title: str):
    seen = through.seen[title]
    assert [fault for one in seen.values() for fault in one["invalid"]] == []
    assert [case.kind for case, one in seen.items() if not one["checked"]] == ["speak"], "speech is bytes"


@pytest.mark.parametrize("title", CHECKED)
def test_straight_not_every_chunk_is_valid(raw: Side, title: str):
    assert any(one["invalid"] for one in raw.seen[title].values())


def test_ten_rounds_of_parallel_calls_are_the_same_plain_emulated_and_aggregated(through: Side):
    told = [
        json.dumps([seen[case]["calls"], seen[case]["text"]])
        for client in CLIENTS
        if "rounds" in client.kinds and (seen := through.seen[client.title])
        for case in cases("rounds")
    ]
    assert set(told) == {json.dumps(whole())}


@pytest.mark.parametrize("title", [client.title for client in CLIENTS if "rounds" in client.kinds])
def test_the_upstream_is_asked_for_streams_and_whole_answers_as_each_model_has_them(through: Side, title: str):
    """So each round above was a stream relayed, made of a whole answer, or gathered into one, as the table says."""
    answered = through.answered[title]
    each = answered[f"{PLAIN} whole"]
    assert each > ROUNDS
    assert answered == {
        **{f"{model} {way}": each for model in (PLAIN, COLD) for way in ("whole", "streamed")},
        f"{WHOLE} whole": 2 * each,
        f"{STREAMING} streamed": 2 * each,
    }


def test_the_page_shows_this_very_table(raw: Side, through: Side):
    assert shown() == text(CLIENTS, raw, through).strip("\n"), "run python -m tests.e2e.clients --write"
