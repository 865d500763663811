"""Rule "images": their positions, their new form, and members that are not images."""

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.errors import InvalidImage
from gatepass.json_body import UNCOUNTED_BYTES
from gatepass.normalize import images
from gatepass.normalize.images import Images, has_images, images_of_texts
from gatepass.normalize.rules import apply_changes, normalize
from gatepass.types import Call
from tests.unit.normalize.calls import TARGET, a_call

BYTES = {
    "image/png": b"\x89PNG\r\n\x1a\n" + bytes(range(24)),
    "image/jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(20),
    "image/webp": b"RIFF\x24\x00\x00\x00WEBPVP8 " + bytes(20),
    "image/gif": b"GIF87a\x01\x00\x01\x00" + bytes(20),
}
PNG = b64encode(BYTES["image/png"]).decode()
URL = "https://example.com/a.png?x=1"
DATA = f"data:image/png;base64,{PNG}"


def apply(body: bytes) -> Call:
    return normalize(a_call(body), TARGET, (Images(),))


def adapt(document: dict[str, Any]) -> dict[str, Any]:
    adapted: dict[str, Any] = json.loads(apply(json.dumps(document).encode()).body)
    return adapted


def part(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def moved(images: Any) -> Any:
    return adapt({"model": "m", "messages": [user(None)], "images": images})["messages"][0]["content"]


def refusal(document: dict[str, Any]) -> tuple[str, str | None]:
    with pytest.raises(InvalidImage) as caught:
        adapt(document)
    return caught.value.message, caught.value.param


def test_ragflows_images_go_to_the_last_user_message():
    """A chat with pictures from RAGFlow's LiteLLM-backed providers (infiniflow/ragflow#15966)."""
    body = (
        b'{"model": "gpt-4o", "messages": [{"role": "system", "content": "You are."}, {"role": "user", '
        b'"content": "first"}, {"role": "assistant", "content": "yes"}, {"role": "user", "content": '
        b'"What is in the picture?"}], "temperature": 0.1, "images": ["' + DATA.encode() + b'"], "stream": false}'
    )
    adapted = apply(body)
    assert adapted.body == (
        b'{"model":"gpt-4o","messages":[{"role": "system", "content": "You are."},{"role": "user", '
        b'"content": "first"},{"role": "assistant", "content": "yes"},{"role":"user","content":'
        b'[{"type":"text","text":"What is in the picture?"},{"type":"image_url","image_url":{"url":"'
        + DATA.encode()
        + b'"}}]}],"temperature":0.1,"stream":false}'
    )
    assert adapted.adapted == ("images=1",)


def test_every_other_value_keeps_its_bytes():
    body = (
        b'\n{ "images" : [ "https:\\/\\/h\\/a" ] ,\t"m\\u0065ssages":[ {"role":"us\\u0065r" , "x" : 1e999,'
        b' "content":"\\u00e9\\n" , "name":"n"} , 5 ], "seed":0.5e1 }'
    )
    assert apply(body).body == (
        b'{"messages":[{"role":"us\\u0065r","x":1e999,'
        b'"content":[{"type":"text","text":"\\u00e9\\n"},{"type":"image_url","image_url":'
        b'{"url":"https:\\/\\/h\\/a"}}],"name":"n"},5],"seed":0.5e1}'
    )


def test_a_messages_own_images_come_before_the_top_levels():
    answer = {"role": "assistant", "content": "user"}
    document = {"images": [URL + "2"], "messages": [user("t", images=[URL + "1"]), {**answer, "images": []}]}
    asked, answered = adapt(document)["messages"]
    assert asked["content"][1:] == [part(URL + "1"), part(URL + "2")]
    assert answered == answer


@pytest.mark.parametrize(
    ("message", "content"),
    [
        (user(""), [part(URL)]),
        (user(None), [part(URL)]),
        ({"role": "user"}, [part(URL)]),
        (user([]), [part(URL)]),
        (user(" "), [{"type": "text", "text": " "}, part(URL)]),
        (user([{"type": "text", "text": "t"}]), [{"type": "text", "text": "t"}, part(URL)]),
        (user([part(DATA), {"type": "input_audio"}]), [part(DATA), {"type": "input_audio"}, part(URL)]),
    ],
)
def test_text_comes_first_and_parts_that_are_there_stay(message, content):
    assert adapt({"images": [URL], "messages": [message]}) == {"messages": [user(content)]}
    assert adapt({"messages": [{**message, "images": [URL]}]}) == {"messages": [user(content)]}
    assert adapt({"messages": [{"images": [URL], **message}]}) == {"messages": [user(content)]}


@pytest.mark.parametrize("empty", [None, [], "", {}])
def test_empty_images_are_removed_wherever_they_stand(empty):
    document = {"images": empty, "messages": [{"images": empty, "role": "tool", "content": "c"}], "model": "m"}
    adapted = apply(json.dumps(document).encode())
    assert json.loads(adapted.body) == {"messages": [{"role": "tool", "content": "c"}], "model": "m"}
    assert adapted.adapted == ("images=0",)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","messages":[{"role":"user","content":"show me \\"images\\" and \\"images"}]}',
        b'{"messages":[{"role":"user","content":[{"type":"text","text":"images","images":[1]}]}]}',
        b'{"messages":[],"tools":[{"function":{"parameters":{"properties":{"images":{"type":"array"}}}}}]}',
        b'{"messages":[{"role":"assistant","tool_calls":[{"images":["x"]}]}],"metadata":{"images":"x"}}',
        b'{"messages":[["images",{"images":[1]}],"images",null,{"role":"images"}],"images_":[1]}',
        b'{"messages":[{"role":"user","content":"\\u0069mages"}]}',
    ],
)
def test_word_images_in_texts_changes_no_byte(body):
    call = a_call(body)
    assert normalize(call, TARGET, (Images(),)) is call


@pytest.mark.parametrize(("mime", "raw"), BYTES.items())
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_bare_base64_gets_the_type_of_its_bytes_and_its_padding(mime, raw, cut):
    raw = raw[: len(raw) // 3 * 3 - cut]
    base64 = b64encode(raw).decode()
    assert moved([base64, base64.rstrip("=")]) == [part(f"data:{mime};base64,{base64}")] * 2


@pytest.mark.parametrize(
    "url",
    [
        *(URL, "http://h", "HTTPS://H/x", 'https://user@h:8080/ä?a="b"#c', "http://[::1]/a"),
        *(DATA, DATA.upper().replace(PNG.upper(), PNG), f"data:image/svg+xml;charset=utf-8;base64,{PNG}"),
        f"data:image/png;base64,{PNG[:20]}\n{PNG[20:]}==\n",
    ],
)
def test_urls_stay_as_they_are(url):
    assert moved(url) == moved([url]) == [part(url)]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"image_url": {"url": URL, "detail": "high", "x": 1}}, part(URL, detail="high", x=1)),
        ({"image_url": {"url": PNG, "detail": "low"}}, part(DATA, detail="low")),
        ({"type": "input_image", "image_url": URL, "detail": "auto"}, part(URL, detail="auto")),
        ({"image_url": URL}, part(URL)),
        ({"url": URL}, part(URL)),
        ({"inline_data": {"mime_type": "image/webp", "data": PNG}}, part(f"data:image/webp;base64,{PNG}")),
        ({"inline_data": {"data": PNG}, "detail": "low"}, part(DATA, detail="low")),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/gif", "data": PNG}},
            part(f"data:image/gif;base64,{PNG}"),
        ),
        ({"type": "image", "source": {"type": "url", "url": URL}}, part(URL)),
        ({"blob": PNG, "mime_type": "image/jpeg"}, part(f"data:image/jpeg;base64,{PNG}")),
        ({"data": PNG, "media_type": "image/avif"}, part(f"data:image/avif;base64,{PNG}")),
        ({"media_type": None, "data": PNG}, part(DATA)),
        ({"data": DATA, "mime_type": "image/jpeg"}, part(DATA)),
        ({"url": URL, "cache_control": {"type": "ephemeral"}}, {**part(URL), "cache_control": {"type": "ephemeral"}}),
        ({"x": 1, "image_url": {"url": URL}, "y": 2}, {**part(URL), "x": 1, "y": 2}),
    ],
)
def test_object_forms_become_parts(form, expected):
    assert moved([form, URL]) == [expected, part(URL)]
    assert moved([{**form}]) == [expected]
    assert moved([dict(reversed(form.items()))]) == [expected]


def test_base64_in_lines_and_with_escaped_slashes_is_joined():
    base64 = b64encode(BYTES["image/jpeg"] + b"\xff" * 90).decode()
    assert "/" in base64
    lines = "".join(f"{base64[at : at + 76]}\r\n" for at in range(0, len(base64), 76))
    body = json.dumps({"messages": [user("")], "images": [lines]}).replace("/", "\\/").encode()
    assert json.loads(apply(body).body)["messages"][0]["content"] == [part(f"data:image/jpeg;base64,{base64}")]
    assert moved(f" {base64[:40]} {base64[40:]} ") == [part(f"data:image/jpeg;base64,{base64}")]


WANTED = "Send an http(s) URL, a data:image/…;base64 URL, or the base64 of a JPEG, PNG, WebP or GIF."


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("file:///etc/passwd", "is a file: URL, which gatepass does not support"),
        ("http:///a", "is a http: URL, which gatepass does not support"),
        (f"data:image/png;a=\r\nb;base64,{PNG}", "is a data: URL, which gatepass does not support"),
        ("data:image/png,%89PNG", "is a data: URL, which gatepass does not support"),
        (f"data:image/png;base64,%{PNG}", "is neither a URL nor base64"),
        ("data:image/png;base64,", "is empty"),
        ("", "is empty"),
        ("C:\\a.png", "is neither a URL nor base64"),
        ("/9j-_", "is neither a URL nor base64"),
        ("iVBORw0KGgo", "does not begin like an image that gatepass supports"),
        (b64encode(b"%PDF-1.7" + bytes(40)).decode(), "does not begin like an image that gatepass supports"),
        ("A=======", "does not begin like an image that gatepass supports"),
        (PNG[:29], "is incomplete base64"),
        (5, "is a number"),
        (None, "is null"),
        ([URL], "is an array"),
        ({}, "is an object without image_url, url, inline_data, source, blob or data"),
        ({"image_url": {"detail": "low"}}, "has an image_url without url"),
        ({"image_url": {"url": None}}, "has null in url"),
        ({"data": False}, "has false in data"),
        ({"data": PNG, "mime_type": "application/pdf"}, "has a type that is not image/…"),
        ({"data": PNG, "mime_type": 'image/png";"x'}, "has a type that is not image/…"),
    ],
)
def test_invalid_image_is_named_with_position_and_reason(image, reason):
    at_top = {"messages": [user("t")], "images": [URL, DATA, image]}
    assert refusal(at_top) == (f"images[2] {reason}. {WANTED}", "images[2]")
    in_message = {"messages": [{"role": "system", "content": ""}, user("t", images=[image])]}
    assert refusal(in_message) == (f"messages[1].images[0] {reason}. {WANTED}", "messages[1].images[0]")
    if image and not isinstance(image, list):  # one image alone has no index
        assert refusal({**at_top, "images": image}) == (f"images {reason}. {WANTED}", "images")


def test_base64_in_escapes_cannot_smuggle_json():
    """Without the escape its quote would end the string and begin another member."""
    sly = PNG.rstrip("=") + "A" * 2000 + '","detail":"' + "A" * 2000
    expected = f"images[0] is neither a URL nor base64. {WANTED}"
    assert refusal({"messages": [user("")], "images": [sly]}) == (expected, "images[0]")


@pytest.mark.parametrize(
    "messages",
    [[], None, "text", {"role": "user"}, [{"role": "system", "content": "x"}], [{"content": "x"}], [5, ["user"]]],
)
def test_images_without_a_user_message_are_refused(messages):
    message, param = refusal({"messages": messages, "images": [URL]})
    assert (message, param) == ("images requires a user message, and `messages` has none.", "images")
    assert refusal({"images": [URL]})[1] == "images"


@pytest.mark.parametrize("role", ["assistant", "system", "tool", "User", None, 5])
def test_images_in_a_message_of_another_role_are_refused(role):
    message, param = refusal({"messages": [user("t"), {"role": role, "content": "x", "images": [URL]}]})
    assert param == "messages[1].images"
    assert message == "messages[1].images is in a message whose role is not user. Only user messages may have images."


@pytest.mark.parametrize(("content", "kind"), [(5, "a number"), ({"text": "x"}, "an object"), (True, "true")])
def test_a_content_that_cannot_hold_images_is_refused(content, kind):
    message, param = refusal({"messages": [user("t"), user(content)], "images": [URL]})
    assert param == "messages[1].content"
    assert message.startswith(f"messages[1].content is {kind}. In a message with images")


@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
def test_invalid_base64_is_found_at_any_position(head):
    long = b64encode(BYTES["image/png"] + bytes(150_000)).decode()
    expected = f"images[1] is neither a URL nor base64. {WANTED}"
    for at in (1100, 65_535, 65_536, 199_900):
        for odd in ("!!<>", "\u00e9", "=A", "\x01", "\x7f", "_"):
            bad = f"{head}{long[:at]}{odd}{long[at:]}"
            assert refusal({"messages": [user("")], "images": [URL, bad]}) == (expected, "images[1]"), (odd, at)
    assert moved(f"{head}{long}") == [part(f"data:image/png;base64,{long}")]


# --- data URLs in texts -----------------------------------------------------------------------------------

JPEG = f"data:image/jpeg;base64,{b64encode(BYTES['image/jpeg']).decode()}"


def parted(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    call = a_call(json.dumps({"model": "m", "messages": messages}).encode())
    changed: list[dict[str, Any]] = json.loads(apply_changes(call, [images_of_texts])[0].body)["messages"]
    return changed


def system(content: Any) -> dict[str, Any]:
    return {"role": "system", "content": content}


def words(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (
            [system(f"You are.\n\n{DATA}"), user("What?")],
            [system("You are.\n\n"), user([words("What?"), part(DATA)])],
        ),
        ([user(f"What? {DATA}")], [user([words("What? "), part(DATA)])]),
        ([user(DATA)], [user([part(DATA)])]),
        ([user(f"a ![b]({DATA}) c")], [user([words("a ![b]() c"), part(DATA)])]),
        ([user(f"é\\n{DATA}")], [user([words("é\\n"), part(DATA)])]),
        (
            [system(f"a\n{DATA}\n\n{JPEG}\r\nb"), user("1"), user(f"2\n{JPEG}")],
            [system("a\n\n\n\r\nb"), user("1"), user([words("2\n"), part(DATA), part(JPEG), part(JPEG)])],
        ),
        (
            [user([words(f"See\n{DATA}"), part(URL)])],
            [user([words("See\n"), part(URL), part(DATA)])],
        ),
        ([user(f"first {DATA}"), user("then")], [user([words("first "), part(DATA)]), user("then")]),
    ],
)
def test_a_data_url_in_a_line_of_its_own_becomes_a_part(messages, expected):
    assert parted(*messages) == expected


@pytest.mark.parametrize(
    "messages",
    [
        [user(f"<img src='{DATA}'>")],
        [user(f"Decode {DATA} for me")],
        [user("data:image/png;base64,not base64!")],
        [user("data:text/plain;base64,aGk=")],
        [user(f"url({DATA})\nmore")],
        [system(f"You are.\n\n{DATA}")],
        [user(None), {"role": "user"}, user([URL])],
    ],
)
def test_another_text_stays(messages):
    assert parted(*messages) == messages


def test_a_request_with_very_many_data_urls_keeps_them(monkeypatch):
    monkeypatch.setattr(images, "MOST_URLS", 2)
    assert parted(user(f"{DATA}\n{DATA}"))[0]["content"][1:] == [part(DATA)] * 2
    many = [user(DATA), user(f"{DATA}\n{DATA}")]
    assert parted(*many) == many


SHAPES = [
    *(
        '"image"',
        '"images"',
        '\\"images\\"',
        '"imag',
        '"im',
        "image_url",
        '"image_url"',
        '"image_url":"',
        "images",
        '"imag',
    ),
    *(
        f'"image_url" : {{ "url":"{PNG}"',
        f'"image_url":"{PNG}',
        '"image_url":{"url":"http://h',
        "iVBORw0KGgo",
        "a" * 99,
    ),
    *('"', '""', "i", "{", "e_url", 's"', '"content":"', ",", "\\", "漢"),
]


@given(st.lists(st.sampled_from(SHAPES), max_size=12).map("".join), st.booleans(), st.booleans())
def test_a_search_for_images_finds_what_a_search_for_each_name_finds(text, is_counted, is_short):
    """The search for the beginning of both names decides nothing itself. Above 12 MiB the name alone decides."""
    body = text.encode()
    first = body.find(b'"image')
    has_url = first >= 0 and b"image_url" in body[first:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "UNCOUNTED_BYTES", UNCOUNTED_BYTES if is_counted else -1)
        patch.setattr(images, "FOUND_BYTES", images.FOUND_BYTES if is_short else -1)
        found = has_images(a_call(body))
    assert found == (b'"images"' in body or (has_url and (not is_counted or images._BARE.search(body) is not None)))
