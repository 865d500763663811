"""Changes of a reply for a client's profile."""

import json

import pytest

from gatepass.config.access import BUILT_IN_PROFILES, PLAIN, Profile
from gatepass.sse.client_transforms import MOST_USAGE_BYTES, make_client_transform, transform_reply

WHOLE = Profile(whole_numbers=True)


@pytest.mark.parametrize("content", [rb'"\ud83d"', b"NaN"])
def test_json_that_only_python_reads_is_left_as_it_is(content):
    body = b'{"choices":[{"index":0,"message":{"content":null,"x":%b}}]}' % content
    assert transform_reply(body, WHOLE) == (body, ())


def test_lines_are_cut_for_the_client_that_takes_no_long_ones():
    transform = make_client_transform(BUILT_IN_PROFILES["ragflow"])
    assert transform is not None
    long = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 2**20)
    assert max(map(len, transform.feed(long).splitlines())) < 2**20
    assert make_client_transform(PLAIN) is None


def chat(message, **more):
    return json.dumps({"id": "1", "choices": [{"index": 0, "message": message}], **more}).encode()


def vectors(**more):
    return b'{"data":[{"index":0,"embedding":[0.10,1e-7]}],' + json.dumps(more).encode()[1:]


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (chat({"content": "a"}), {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
        (chat({"content": "a"}, usage=None), {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
        (
            chat({"content": "a"}, usage={"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": None, "x": {}}),
            {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5, "x": {}},
        ),
        (
            chat({"content": "a"}, usage={"prompt_tokens": "2", "completion_tokens": 3.0, "total_tokens": 9}),
            {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 9},
        ),
        (
            chat({"content": "a"}, usage={"prompt_tokens": 12.0, "completion_tokens": "3.0", "total_tokens": "15"}),
            {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15},
        ),
        (
            chat({"content": "a"}, usage={"prompt_tokens": 1.5, "completion_tokens": "x", "total_tokens": True}),
            {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        ),
        (vectors(model="e"), {"prompt_tokens": 0, "total_tokens": 0}),
        (vectors(usage={"prompt_tokens": 4, "total_tokens": None}), {"prompt_tokens": 4, "total_tokens": 4}),
    ],
)
def test_usage_is_whole_numbers_if_the_client_requires_it(body, usage):
    changed, adapted = transform_reply(body, WHOLE)
    assert json.loads(changed) == {**json.loads(body), "usage": usage}
    assert adapted == ("repair=usage",)


def test_a_usage_that_is_no_usage_passes_as_it_came():
    body = chat({"content": "a"}, usage=dict.fromkeys(map(str, range(MOST_USAGE_BYTES // 8)), 1.5))
    assert transform_reply(body, WHOLE) == (body, ())


def test_vectors_keep_their_bytes():
    assert b'[{"index":0,"embedding":[0.10,1e-7]}]' in transform_reply(vectors(model="e"), WHOLE)[0]


GOOD = {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}


@pytest.mark.parametrize(
    "body",
    [
        chat({"content": "a"}, **GOOD),
        chat({"content": None, "tool_calls": [{"id": "1"}]}, **GOOD),
        chat({"content": None, "refusal": "no"}, **GOOD),
        chat(None, **GOOD),
        json.dumps({"choices": None, **GOOD}).encode(),
        json.dumps({"choices": [1], **GOOD}).encode(),
        b'{"results":[]}',
        b'[{"index":0,"score":1}]',
        b'{"text":"heard"}',
    ],
)
def test_complete_reply_is_the_same_object(body):
    changed, adapted = transform_reply(body, WHOLE)
    assert changed is body
    assert adapted == ()


def test_other_clients_get_what_came():
    body = chat({"content": None})
    assert transform_reply(body, PLAIN)[0] is body
    assert transform_reply(body, WHOLE)[1] == ("repair=usage",)


NAMED = Profile(envelope=True)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ({"choices": [{"message": {"content": "a"}}]}, "chat.completion"),
        ({"choices": [{"text": "a"}]}, "text_completion"),
        ({"data": [{"index": 0, "embedding": [0.5]}]}, "list"),
        ({"object": None, "model": "", "data": []}, "list"),
    ],
)
def test_a_reply_has_object_and_model_for_a_client_that_requires_both(reply, kind):
    body, adapted = transform_reply(json.dumps(reply).encode(), NAMED, "m")
    assert (json.loads(body), adapted) == ({**reply, "object": kind, "model": "m"}, ("repair=envelope",))


@pytest.mark.parametrize(
    "body",
    [
        b'{"object":"x","model":"y","choices":[{"message":{}}]}',
        b'{"choices":[]}',
        b'{"choices":["a"]}',
        b'{"choices":null}',
        b'{"error":{"message":"m"}}',
    ],
)
def test_reply_with_a_model_or_without_an_answer_keeps_its_bytes(body):
    assert transform_reply(body, NAMED, "m") == (body, ())


def test_an_unknown_name_is_not_made_up():
    body, _ = transform_reply(b'{"data":[]}', NAMED)
    assert json.loads(body) == {"data": [], "object": "list"}
