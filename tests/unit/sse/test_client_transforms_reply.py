"""What a profile changes in a whole reply."""

import json

import pytest

from gatepass.config.access import PLAIN, Profile
from gatepass.sse.client_transforms import MOST_USAGE_BYTES, transform_reply

WHOLE, NAMED = Profile(whole_numbers=True), Profile(envelope=True)
NONE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
GOOD = {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}


def chat(message, **more):
    return json.dumps({"id": "1", "choices": [{"index": 0, "message": message}], **more}).encode()


def used(prompt, completion, total, **more):
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, **more}
    return chat({"content": "a"}, usage=usage)


def vectors(**more):
    return b'{"data":[{"index":0,"embedding":[0.10,1e-7]}],' + json.dumps(more).encode()[1:]


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (chat({"content": "a"}), NONE),
        (chat({"content": "a"}, usage=None), NONE),
        (used(2, 3, None, x={}), {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5, "x": {}}),
        (used("2", 3.0, 9), {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 9}),
        (used(1.5, "x", True), NONE),
        (vectors(model="e"), {"prompt_tokens": 0, "total_tokens": 0}),
        (vectors(usage={"prompt_tokens": 4, "total_tokens": None}), {"prompt_tokens": 4, "total_tokens": 4}),
    ],
)
def test_usage_is_whole_numbers_if_the_client_requires_it(body, usage):
    changed, adapted = transform_reply(body, WHOLE)
    assert (json.loads(changed), adapted) == ({**json.loads(body), "usage": usage}, ("repair=usage",))
    assert (b'"data"' not in body) or b'[{"index":0,"embedding":[0.10,1e-7]}]' in changed
    assert transform_reply(body, PLAIN)[0] is body


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
    ("profile", "body"),
    [
        *((WHOLE, chat(message, **GOOD)) for message in ({"content": None, "refusal": "no"}, None)),
        *((WHOLE, json.dumps({"choices": choices, **GOOD}).encode()) for choices in (None, [1])),
        *((WHOLE, body) for body in (b'{"results":[]}', b'[{"index":0,"score":1}]', b'{"text":"heard"}')),
        # JSON that only Python reads
        *((WHOLE, b'{"choices":[{"index":0,"message":{"x":%b}}]}' % x) for x in (rb'"\ud83d"', b"NaN")),
        (WHOLE, chat({"content": "a"}, usage=dict.fromkeys(map(str, range(MOST_USAGE_BYTES // 8)), 1.5))),
        (NAMED, b'{"object":"x","model":"y","choices":[{"message":{}}]}'),
        *((NAMED, b'{"choices":%b}' % choices) for choices in (b"[]", b'["a"]', b"null")),
        (NAMED, b'{"error":{"message":"m"}}'),
    ],
)
def test_complete_reply_is_the_same_object(profile, body):
    changed, adapted = transform_reply(body, profile, "m")
    assert changed is body
    assert adapted == ()


def test_an_unknown_name_is_not_made_up():
    body, _ = transform_reply(b'{"data":[]}', NAMED)
    assert json.loads(body) == {"data": [], "object": "list"}
