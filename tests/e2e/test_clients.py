"""Real clients from PyPI and npm, each in a separate environment, through gatepass to a strict upstream.

The upstream rejects unknown parameters. Its models reject streams, temperatures or requests without `stream`.
`python -m tests.e2e.clients --write` updates the table of docs/compatibility.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.clients.conversation import ROUNDS, full_conversation
from tests.e2e.clients.measurement import CLIENTS, Measurement, PathResults, measuring
from tests.e2e.clients.scenario import Scenario, scenarios
from tests.e2e.clients.table import shown, text
from tests.e2e.clients.upstream import ACCEPTS_ALL, NO_STREAM, NO_TEMPERATURE, ONLY_STREAMS
from tests.e2e.quirks.assessment import Outcome

CHECKED = [client.title for client in CLIENTS if client.runner == "try_openai.py"]
"""The clients whose runner validates every reply by the types of OpenAI's SDK."""


@pytest.fixture(scope="module")
def measurement(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measurement]:
    with measuring(tmp_path_factory.mktemp("clients")) as measurement:
        yield measurement


@pytest.fixture
def both_paths(measurement: Measurement, request: pytest.FixtureRequest) -> tuple[PathResults, PathResults]:
    """The results of the client `title`, or of all clients if the test has no `title`."""
    callspec = getattr(request.node, "callspec", None)
    for client in CLIENTS:
        if callspec is None or callspec.params["title"] == client.title:
            measurement.measure(client)
    return measurement.direct, measurement.via_gatepass


@pytest.fixture
def direct(both_paths: tuple[PathResults, PathResults]) -> PathResults:
    """The results without gatepass."""
    return both_paths[0]


@pytest.fixture
def via_gatepass(both_paths: tuple[PathResults, PathResults]) -> PathResults:
    return both_paths[1]


@pytest.mark.parametrize("title", [client.title for client in CLIENTS])
def test_every_client_gets_the_expected_results(via_gatepass: PathResults, title: str):
    assert via_gatepass.failures(title) == []


def test_gatepass_logs_no_unexpected_exception(via_gatepass: PathResults):
    assert [trace for traces in via_gatepass.traces.values() for trace in traces] == []


@pytest.mark.parametrize("title", [client.title for client in CLIENTS if "chat" in client.kinds])
def test_without_gatepass_only_the_model_that_accepts_all_returns_whole_replies(direct: PathResults, title: str):
    plain_chats = {
        scenario: assessment
        for scenario, assessment in direct.assessments[title].items()
        if scenario.kind == "chat" and not scenario.streams
    }
    assert [scenario for scenario, assessment in plain_chats.items() if assessment.outcome is Outcome.RIGHT] == [
        Scenario("chat", ACCEPTS_ALL)
    ]


@pytest.mark.parametrize("title", CHECKED)
def test_every_answer_and_chunk_is_valid_by_the_types_of_the_sdk(via_gatepass: PathResults, title: str):
    results = via_gatepass.results[title]
    assert [fault for result in results.values() for fault in result["invalid"]] == []
    assert [scenario.kind for scenario, result in results.items() if not result["checked"]] == ["synthesize_speech"], (
        "speech is bytes"
    )


@pytest.mark.parametrize("title", CHECKED)
def test_without_gatepass_some_chunks_are_invalid(direct: PathResults, title: str):
    assert any(result["invalid"] for result in direct.results[title].values())


def test_ten_rounds_of_parallel_calls_are_the_same_plain_emulated_and_aggregated(via_gatepass: PathResults):
    conversations = [
        json.dumps([results[scenario]["calls"], results[scenario]["text"]])
        for client in CLIENTS
        if "rounds" in client.kinds and (results := via_gatepass.results[client.title])
        for scenario in scenarios("rounds")
    ]
    assert set(conversations) == {json.dumps(full_conversation())}


@pytest.mark.parametrize("title", [client.title for client in CLIENTS if "rounds" in client.kinds])
def test_upstream_receives_the_stream_mode_of_each_model(via_gatepass: PathResults, title: str):
    """So each round above was a relayed stream, a synthesized stream or an aggregated reply."""
    answered = via_gatepass.answered[title]
    each = answered[f"{ACCEPTS_ALL} whole"]
    assert each > ROUNDS
    assert answered == {
        **{f"{model} {way}": each for model in (ACCEPTS_ALL, NO_TEMPERATURE) for way in ("whole", "streamed")},
        f"{NO_STREAM} whole": 2 * each,
        f"{ONLY_STREAMS} streamed": 2 * each,
    }


def test_the_page_shows_this_table(direct: PathResults, via_gatepass: PathResults):
    assert shown() == text(CLIENTS, direct, via_gatepass).strip("\n"), "run python -m tests.e2e.clients --write"
