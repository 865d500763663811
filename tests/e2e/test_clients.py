"""Real clients from PyPI and npm, each in a separate environment, through gatepass to a strict upstream.

The upstream rejects unknown parameters. Its models reject streams, temperatures or requests without `stream`.
`python -m tests.e2e.clients --write` updates the table of docs/compatibility.md.
"""

from collections.abc import Iterator, Sequence

import pytest

from tests.e2e.clients.conversation import ROUNDS
from tests.e2e.clients.measurement import ALL_KINDS, CLIENTS, Client, Measurement, gatepass, measuring, run, upstream
from tests.e2e.clients.scenario import scenarios
from tests.e2e.clients.table import shown, text
from tests.e2e.clients.upstream import ACCEPTS_ALL, NO_STREAM, NO_TEMPERATURE, ONLY_STREAMS

CHECKED = [client for client in CLIENTS if client.runner == "try_openai.py"]
"""The clients whose runner validates every reply by the types of OpenAI's SDK."""


def each(clients: Sequence[Client]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("client", clients, ids=lambda client: client.title)


@pytest.fixture(scope="module")
def measurement(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measurement]:
    with measuring(tmp_path_factory.mktemp("clients")) as measurement:
        yield measurement


@each(CLIENTS)
def test_every_client_gets_the_expected_results(measurement: Measurement, client: Client):
    via_gatepass = measurement.measure(client).via_gatepass
    assert via_gatepass.failures(client.title) == []
    assert via_gatepass.traces[client.title] == []


@each(CHECKED)
def test_every_answer_and_chunk_is_valid_by_the_types_of_the_sdk(measurement: Measurement, client: Client):
    results = measurement.measure(client).via_gatepass.results[client.title]
    assert [fault for result in results.values() for fault in result["invalid"]] == []
    unchecked = [scenario.kind for scenario, result in results.items() if not result["checked"]]
    assert unchecked == ["synthesize_speech"], "speech is bytes"


@each([client for client in CLIENTS if "rounds" in client.kinds])
def test_upstream_receives_the_stream_mode_of_each_model(measurement: Measurement, client: Client):
    """So each round of tool calls was a relayed stream, a synthesized stream or an aggregated reply."""
    answered = measurement.measure(client).via_gatepass.answered[client.title]
    count = answered[f"{ACCEPTS_ALL} whole"]
    assert count > ROUNDS
    assert answered == {
        **{f"{model} {way}": count for model in (ACCEPTS_ALL, NO_TEMPERATURE) for way in ("whole", "streamed")},
        f"{NO_STREAM} whole": 2 * count,
        f"{ONLY_STREAMS} streamed": 2 * count,
    }


def test_the_page_shows_this_table(measurement: Measurement):
    for client in CLIENTS:
        measurement.measure(client)
    table = text(CLIENTS, measurement.direct, measurement.via_gatepass)
    assert shown() == table.strip("\n"), "run python -m tests.e2e.clients --write"


def test_a_wrong_key_is_the_same_valid_error_for_every_operation(tmp_path):
    with upstream() as url, gatepass(tmp_path, url) as endpoint:
        results = [*run(CHECKED[0], endpoint.url, "a wrong key", scenarios(*ALL_KINDS)).values()]
    assert [(result["invalid"], result["checked"]) for result in results] == [([], 1)] * len(results)
    errors = {(one["error"]["class"], one["error"]["status"], one["error"]["message"]) for one in results}
    assert [(kind, status) for kind, status, _ in errors] == [("AuthenticationError", 401)]
