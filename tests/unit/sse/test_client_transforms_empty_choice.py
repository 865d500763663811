"""An empty choice, for a client that reads the first choice of every chunk."""

import json

import pytest

from gatepass.config.access import BUILT_IN_PROFILES, Profile
from gatepass.sse.client_transforms import EmptyChoice, make_client_transform
from tests.unit.sse.peer import chunks_of, helper_reads
from tests.unit.sse.streams import DONE, REALISTIC, chunk, data, text

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
SILENT = {"index": 0, "delta": {"content": ""}, "finish_reason": None}


@pytest.mark.parametrize("spaced", [True, False])
def test_the_usage_comes_beside_a_choice(spaced):
    transform = make_client_transform(BUILT_IN_PROFILES["cline"])
    assert transform is not None
    run = transform.feed(text("a") + data(chunk(None, usage=USAGE), spaced=spaced) + DONE + b": alive\n")
    assert run == text("a") + data({**chunk(None, usage=USAGE), "choices": [SILENT]}) + DONE + b": alive\n"
    assert (transform.adapted, transform.finish()) == ((EmptyChoice.name,), b"")


def test_in_a_stream_of_completions_the_choice_is_one_of_those():
    payload = {"object": "text_completion", "choices": [], "usage": USAGE}
    (choice,) = json.loads(EmptyChoice().feed(data(payload))[5:])["choices"]
    assert choice == {"index": 0, "text": "", "logprobs": None, "finish_reason": None}


@pytest.mark.parametrize(
    "run",
    [
        text('"choices":[]'),
        text("a", more={"choices": []}),
        data({"error": {"message": "m", "choices": []}}),
        b'data: [{"choices":[]}]\n\n',
        b'data: {"choices":[]\n\n',
        DONE,
    ],
)
def test_event_with_a_choice_or_without_a_chunk_is_the_same_object(run):
    transform = EmptyChoice()
    assert transform.feed(run) is run
    assert (transform.adapted, transform.finish()) == ((), b"")


def test_real_clients_read_the_same_as_without():
    transform = EmptyChoice()
    transformed = b"".join(map(transform.feed, REALISTIC))
    assert helper_reads(transformed) == helper_reads(b"".join(REALISTIC))
    assert all(one.choices for one in chunks_of(transformed))


def test_numbers_are_made_whole_beside_it():
    transform = make_client_transform(Profile(extends="cline", fills_choices=True, whole_numbers=True))
    assert transform is not None
    (one,) = [json.loads(transform.feed(data(chunk(None, usage={**USAGE, "total_tokens": None})))[5:])]
    assert (one["usage"], one["choices"]) == (USAGE, [SILENT])
    assert transform.adapted == ("repair=usage", EmptyChoice.name)
