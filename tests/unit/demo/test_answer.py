from __future__ import annotations

import base64

import pytest

from gatepass.demo.answer import Understood, Unreadable, answer, chunks, completion, understood, usage_of

PNG = f"data:image/png;base64,{base64.b64encode(bytes.fromhex('89504e470d0a1a0a') + b'x').decode()}"
JPEG = f"data:image/jpeg;base64,{base64.b64encode(bytes.fromhex('ffd8ffe0')).decode()}"
HEAD = {"id": "chatcmpl-1", "created": 5, "model": "m"}


def image(url: str) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_the_last_users_text_and_all_images_are_understood():
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [image(JPEG)]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "user", "content": [{"type": "text", "text": "what"}, image(PNG), image("https://h/x.png")]},
    ]
    assert understood(messages) == Understood("what", ("image/jpeg", "image/png", "a link"))


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        (None, "'messages' must be a list that is not empty"),
        ([], "'messages' must be a list that is not empty"),
        (["x"], "'messages[0]' must be an object with a role"),
        ([{"content": "x"}], "'messages[0]' must be an object with a role"),
        (
            [{"role": "user", "content": "x", "images": []}],
            "Unrecognized request argument supplied: messages[0].images",
        ),
        ([{"role": "user", "content": 5}], "'messages[0].content' must be a text or a list of parts"),
        (
            [{"role": "user", "content": [{"type": "text", "text": ""}]}],
            "'messages[0].content[0]' is neither a text that is not empty nor an image_url",
        ),
        (
            [{"role": "user", "content": [image("iVBORw0KGgo=")]}],
            "'messages[0].content[0]' should be a valid url or data:image/TYPE;base64,…",
        ),
        (
            [{"role": "user", "content": [image("data:image/png,xx")]}],
            "'messages[0].content[0]' should be a valid url or data:image/TYPE;base64,…",
        ),
        (
            [{"role": "user", "content": [image("data:image/png;base64,%")]}],
            "'messages[0].content[0]' is not base64",
        ),
        (
            [{"role": "user", "content": [image(JPEG.replace("jpeg", "png"))]}],
            "'messages[0].content[0]' says image/png and is image/jpeg",
        ),
        (
            [{"role": "user", "content": [image("data:image/png;base64,AAAA")]}],
            "'messages[0].content[0]' says image/png and is no image",
        ),
    ],
)
def test_what_a_strict_server_refuses_is_named(messages: object, complaint: str):
    with pytest.raises(Unreadable) as caught:
        understood(messages)
    assert str(caught.value) == complaint


def test_the_answer_tells_what_was_seen():
    assert answer(Understood("Hi")) == 'You said "Hi" and I answer word by word, each the moment it is made.'
    assert answer(Understood("Hi", ("image/png",))) == "I see 1 image: image/png."
    assert answer(Understood("", ("image/png", "a link"))) == "I see 2 images: image/png, a link."


def test_the_chunks_hold_the_plain_answer_word_by_word():
    usage = usage_of("one two", "a b c")
    assert usage == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    plain = completion(HEAD, "a b c", usage)
    assert plain["choices"][0]["message"] == {"role": "assistant", "content": "a b c", "refusal": None}
    pieces = list(chunks(HEAD, "a b c", usage, include_usage=True))
    assert [piece["choices"][0]["delta"] for piece in pieces[:-1]] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {"content": " b"},
        {"content": " c"},
        {},
    ]
    assert [piece["choices"][0]["finish_reason"] for piece in pieces[:-1]] == [None] * 4 + ["stop"]
    assert pieces[-1] == {**HEAD, "object": "chat.completion.chunk", "choices": [], "usage": usage}


def test_usage_comes_only_where_it_was_asked_for():
    assert all(piece["choices"] for piece in chunks(HEAD, "a", usage_of("", "a"), include_usage=False))
