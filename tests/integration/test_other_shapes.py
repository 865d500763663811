"""Requests and replies in the shapes of other servers: pictures without a URL, contents in lists, vectors in lists,
errors that know a tool by its number."""

import json
import struct
from base64 import b64encode
from typing import Any

import pytest

from tests.integration.answers import COMPLETION, DONE, delta
from tests.integration.gateway import HELLO, STREAMED, answer_from, relaying
from tests.integration.scripted import Send, reply, stream
from tests.integration.test_translated_messages import CHATS

# --- pictures -------------------------------------------------------------------------------------

BEGINNINGS = {
    "png": b"\x89PNG\r\n\x1a\n" + b"\0" * 30,
    "jpeg": b"\xff\xd8\xff\xe0" + b"\0" * 30,
    "gif": b"GIF89a" + b"\0" * 30,
    "webp": b"RIFF\0\0\0\0WEBP" + b"\0" * 30,
}


def picture(kind: str) -> str:
    return b64encode(BEGINNINGS[kind]).decode()


def asked_with(*parts: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, *parts]}]}


def image(url: Any, **members: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **members}}


@pytest.mark.parametrize("kind", BEGINNINGS)
@pytest.mark.parametrize("streams", [False, True])
async def test_base64_in_place_of_a_url_becomes_a_data_url(kind, streams):
    kept = [image("https://a.example/x.png"), image(f"data:image/png;base64,{picture('png')}")]
    body = {**asked_with(image(picture(kind), detail="low"), *kept), "stream": streams}
    sent = Send(stream(delta(content="hi"), delta("stop"), DONE) if streams else reply(COMPLETION))
    async with relaying([sent]) as (upstream, gp):
        answer = await gp.ask(body).answer()
    parts = upstream.received[0].json()["messages"][0]["content"]
    assert parts[1:] == [image(f"data:image/{kind};base64,{picture(kind)}", detail="low"), *kept]
    assert answer.headers["x-gatepass-adapted"].split(", ")[0] == "images=1"


@pytest.mark.parametrize("text", [json.dumps, lambda body: json.dumps(body).replace("/", "\\/")])
async def test_the_url_may_be_a_text_or_escaped_and_stand_in_several_messages(text):
    own = [{"type": "image_url", "image_url": picture("jpeg")}, image(picture("jpeg"))]
    messages = [{"role": "user", "content": [one]} for one in own]
    async with relaying([Send(reply(COMPLETION))]) as (upstream, gp):
        answer = await gp.ask(text({"model": "m", "messages": messages}).encode()).answer()
    url = f"data:image/jpeg;base64,{picture('jpeg')}"
    found = [one["content"][0] for one in upstream.received[0].json()["messages"]]
    assert found == [{"type": "image_url", "image_url": url}, image(url)]
    assert answer.headers["x-gatepass-adapted"] == "images=2"


@pytest.mark.parametrize("url", ["file:///tmp/x.png", "gs://bucket/x", "QUJDREVG", "/9j", 7, None, picture("png")[:4]])
async def test_what_is_no_such_base64_keeps_its_bytes(url):
    body = json.dumps(asked_with(image(url))).encode()
    async with relaying([Send(reply(COMPLETION))]) as (upstream, gp):
        await gp.ask(body).answer()
    assert upstream.received[0].body == body


async def test_half_a_picture_is_a_named_400():
    broken = picture("png")[:-8] + "!" + picture("png")[-8:]
    async with relaying([Send(reply(COMPLETION))]) as (upstream, gp):
        answer = await gp.ask(asked_with(image(broken))).answer()
    assert (answer.status, answer.error["code"], upstream.received) == (400, "invalid_image", [])


@pytest.mark.parametrize(("detail", "expected"), [("original", "high"), ("low", "low"), ("auto", "auto")])
async def test_a_response_over_a_chat_has_a_detail_that_chats_know(detail, expected):
    part = {"type": "input_image", "image_url": picture("png"), "detail": detail}
    given = [{"role": "user", "content": [part]}]
    async with relaying([Send(reply(COMPLETION))], chat=CHATS) as (upstream, gp):
        answer = await gp.ask({"model": "m", "input": given}, "/v1/responses").answer()
    assert answer.status == 200
    found = upstream.received[0].json()["messages"][0]["content"]
    assert found == [image(f"data:image/png;base64,{picture('png')}", detail=expected)]


# --- contents -------------------------------------------------------------------------------------

REFERENCE = {"type": "reference", "reference_ids": [1]}
LISTS: dict[str, tuple[list[Any], str]] = {
    "a part without a text": ([REFERENCE], ""),
    "a text among others": ([{"type": "text", "text": "Hi"}, REFERENCE, {"type": "text"}], "Hi"),
    "texts alone": (["H", {"text": "i"}], "Hi"),
    "a text that is null": ([{"type": "text", "text": None}], ""),
    "nothing": ([], ""),
}


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(("content", "text"), LISTS.values(), ids=LISTS)
async def test_a_content_in_parts_is_its_texts(content, text, streams):
    message = {"role": "assistant", "content": content}
    whole = {**COMPLETION, "choices": [{"index": 0, "message": message, "finish_reason": "length"}]}
    sent = stream(delta(content="A "), delta(content=content), delta("stop"), DONE) if streams else reply(whole)
    answer = await answer_from([Send(sent)], STREAMED if streams else HELLO)
    if streams:
        pieces = [json.loads(one)["choices"][0]["delta"].get("content") for one in answer.events[:-1]]
        assert (all(isinstance(one, str | None) for one in pieces), "".join(filter(None, pieces))) == (
            True,
            f"A {text}",
        )
    else:
        assert answer.json()["choices"][0]["message"]["content"] == text


async def test_a_content_with_an_image_keeps_it():
    parts = [{"type": "text", "text": "Hi"}, image("https://a.example/x.png")]
    answer = await answer_from([Send(stream(delta(content=parts), delta("stop"), DONE))], STREAMED)
    assert json.loads(answer.events[0])["choices"][0]["delta"]["content"] == parts


# --- vectors --------------------------------------------------------------------------------------


def vectors(*found: Any) -> bytes:
    data = [{"object": "embedding", "index": at, "embedding": one} for at, one in enumerate(found)]
    return reply({"object": "list", "model": "e", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}})


LONG = [round(at / 7, 5) for at in range(2_000)]
NESTED: dict[str, tuple[Any, list[Any]]] = {
    "one": ("a", [[0.1, 0.2]]),
    "two": (["a", "b"], [[0.1, 0.2], [0.3, 0.4]]),
    "long ones": (["a", "b"], [LONG, LONG]),
}


@pytest.mark.parametrize("encoding", ["float", "base64"])
@pytest.mark.parametrize(("given", "expected"), NESTED.values(), ids=NESTED)
async def test_a_vector_alone_in_a_list_is_the_vector(given, expected, encoding):
    body = {"model": "e", "input": given, "encoding_format": encoding}
    plain = await answer_from([Send(vectors(*expected))], body, "/v1/embeddings")
    nested = await answer_from([Send(vectors(*([one] for one in expected)))], body, "/v1/embeddings")
    assert nested.json() == plain.json()
    assert nested.headers["x-gatepass-adapted"].split(", ")[-1] == "embeddings=row"
    assert encoding == "base64" or [one["embedding"] for one in nested.json()["data"]] == expected


HALF = [b64encode(struct.pack("<3e", *numbers)).decode() for numbers in ([0.5, 1, 2], [3, 4, 5])]


@pytest.mark.parametrize(
    ("members", "sent"),
    [
        ({"embed_dtype": "float16", "encoding_format": "base64"}, HALF),
        ({"embed_dtype": "float16", "encoding_format": "base64", "dimensions": 3}, HALF),
        ({"output_dtype": "ubinary", "dimensions": 24}, [[1, 2, 3], [4, 5, 6]]),
        ({"endianness": "big", "encoding_format": "base64"}, [[0.5, 1], [2, 3]]),  # a server that ignores both
    ],
)
async def test_vectors_in_another_format_of_numbers_are_relayed_as_they_came(members, sent):
    answer = await answer_from([Send(vectors(*sent))], {"model": "e", "input": ["a", "b"], **members}, "/v1/embeddings")
    assert answer.status == 200
    assert [one["embedding"] for one in answer.json()["data"]] == sent
    assert "x-gatepass-adapted" not in answer.headers


async def test_vectors_in_another_format_have_one_length():
    body = {"model": "e", "input": ["a", "b"], "embed_dtype": "fp8_e4m3", "encoding_format": "base64"}
    answer = await answer_from([Send(vectors("AAAA", "AAAAAAA="))], body, "/v1/embeddings")
    assert (answer.status, answer.error["code"]) == (502, "upstream_invalid")


async def test_bytes_in_place_of_json_are_not_quoted():
    floats = struct.pack("<400f", *(at / 7 for at in range(400)))
    answer = await answer_from(
        [Send(reply(floats, content_type="application/octet-stream"))], {"model": "e", "input": "a"}, "/v1/embeddings"
    )
    assert (answer.status, answer.error["code"]) == (502, "upstream_invalid")
    assert answer.error["message"].endswith("answered 200 OK with neither JSON nor text.")


@pytest.mark.parametrize(
    ("embedding", "words"),
    [
        ([[0.1, 0.2], [0.3, 0.4]], "a list of 2 vectors, as one for each token. Set pooling at the server"),
        ([LONG, LONG, LONG], "a list of 3 vectors"),
        ([[0.1], "x"], "not a number"),
        ([[0.1], 0.2], "not a number"),
        ([[[0.1]]], "a list of 2 vectors"),
        ([[]], "a vector is empty"),
    ],
)
async def test_a_list_of_several_vectors_is_an_error_that_says_so(embedding, words):
    answer = await answer_from([Send(vectors(embedding))], {"model": "e", "input": "a"}, "/v1/embeddings")
    assert (answer.status, answer.error["code"]) == (502, "upstream_invalid")
    assert words in answer.error["message"]


# --- tools ----------------------------------------------------------------------------------------

NAMES = ["plain", "calendar.update"]
CHAT_TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in NAMES]
TOOLS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "OpenAI's": (
        "/v1/chat/completions",
        {**HELLO, "tools": CHAT_TOOLS},
        {"error": {"message": "Invalid 'tools[1].function.name': no match.", "param": "tools[1].function.name"}},
    ),
    "Gemini's": (
        "/v1/chat/completions",
        {**HELLO, "tools": CHAT_TOOLS},
        {"error": {"message": "Request.tools[0].function_declarations[1].name: Invalid function name."}},
    ),
    "pydantic's": (
        "/v1/chat/completions",
        {**HELLO, "tools": CHAT_TOOLS},
        {
            "detail": [
                {"loc": ["body", "tools", 1, "function", "name"], "msg": "String should match pattern", "input": 1}
            ]
        },
    ),
    "a response's": (
        "/v1/responses",
        {"model": "m", "input": "Hi", "tools": [{"type": "function", "name": name} for name in NAMES]},
        {"error": {"message": "Invalid 'tools[1].name': no match.", "param": "tools[1].name", "code": "invalid_value"}},
    ),
    "Anthropic's": (
        "/v1/messages",
        {**HELLO, "max_tokens": 9, "tools": [{"name": name, "input_schema": {}} for name in NAMES]},
        {"type": "error", "error": {"type": "invalid_request_error", "message": "tools.1.custom.name: no match"}},
    ),
}


@pytest.mark.parametrize(("path", "body", "error"), TOOLS.values(), ids=TOOLS)
async def test_an_error_about_a_tool_by_its_number_names_it(path, body, error):
    answer = await answer_from([Send(reply(error, 400))] * 1, body, path)
    assert answer.status == 400
    assert answer.error["message"].endswith("It is the tool 'calendar.update'.")


OF_CLIENTS: dict[str, dict[str, Any]] = {
    "/v1/messages": {
        **HELLO,
        "max_tokens": 9,
        "tools": [{"type": "web_search_20250305", "name": "w"}, *({"name": name} for name in NAMES)],
    },
    "/v1/responses": {
        "model": "m",
        "input": "Hi",
        "tools": [{"type": "web_search"}, *({"type": "function", "name": name} for name in NAMES)],
    },
}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("tools[1].function.name", "tools[2].name"),
        ("tools.1.function.name", "tools[2].name"),
        ("tools[1].function.parameters.type", "tools[2]"),
        ("tools[1].function", "tools[2]"),
    ],
)
@pytest.mark.parametrize(("path", "body"), OF_CLIENTS.items(), ids=OF_CLIENTS)
async def test_an_error_about_a_tool_of_a_chat_has_its_place_in_the_request_of_the_client(path, body, where, expected):
    error = {"error": {"message": f"Invalid '{where}': no match.", "param": where}}
    answer = await answer_from([Send(reply(error, 400))], body, path, chat=CHATS)
    said = answer.error["message"]
    assert (answer.status, f"Invalid '{expected}': no match. It is the tool 'calendar.update'." in said) == (400, True)
    assert answer.error.get("param") in (expected, None)
    assert path == "/v1/messages" or answer.error["param"] == expected


async def test_an_error_about_a_tool_of_a_namespace_keeps_the_path_and_has_its_name():
    inner = [{"type": "function", "name": name} for name in NAMES]
    body = {"model": "m", "input": "Hi", "tools": [{"type": "namespace", "name": "mail", "tools": inner}]}
    error = {"error": {"message": "Invalid 'tools[1].function.name'.", "param": "tools[1].function.name"}}
    answer = await answer_from([Send(reply(error, 400))], body, "/v1/responses", chat=CHATS)
    assert answer.error["message"].endswith("Invalid 'tools[1].function.name'. It is the tool 'calendar.update'.")


@pytest.mark.parametrize("where", ["tools[7].function.name", "messages[1].content", "tools[0].function.name"])
async def test_no_tool_is_named_that_the_error_does_not_mean(where):
    error = {"error": {"message": f"Invalid '{where}' of plain.", "param": where}}
    answer = await answer_from([Send(reply(error, 400))], {**HELLO, "tools": CHAT_TOOLS})
    assert "It is the tool" not in answer.error["message"]
