"""All built-in rules, one after the other, on what the surface decodes."""

import itertools
import json
import tracemalloc
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.adapt.chain import BUILT_IN, adapt
from gatepass.call import Call, Inbound, Target
from gatepass.errors import InvalidImage
from gatepass.surface.decode import decode
from tests.unit.adapt.calls import CHAT, EMBEDDINGS, RESPONSES, TARGET, a_call
from tests.unit.surface.json_texts import VALUES, written

INBOUND = Inbound("id", "POST", "/v1/chat/completions", (), "127.0.0.1", 0.0)
PNG = b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4).decode()


def test_the_rules_stand_in_their_order():
    assert [rule.name for rule in BUILT_IN] == ["images", "strays", "stream_options", "vectors", "model"]


def test_each_rule_sees_what_the_one_before_made():
    body = b'{"model":"m","drop_params":true,"images":"http://h","messages":[{"role":"user"}],"model_type":"chat"}'
    adapted = adapt(a_call(body), Target("chat", "deployed"), BUILT_IN)
    assert adapted.body == (
        b'{"model":"deployed","messages":[{"role":"user","content":'
        b'[{"type":"image_url","image_url":{"url":"http://h"}}]}]}'
    )
    assert adapted.adapted == ("images=1", "drop=drop_params,model_type")


def test_no_rules_give_the_same_call():
    call = a_call(b'{"drop_params":1}')
    assert adapt(call, TARGET, ()) is call


def test_a_refusal_of_a_rule_is_the_refusal():
    with pytest.raises(InvalidImage):
        adapt(a_call(b'{"images":["file:x"],"messages":[{"role":"user"}]}'), TARGET, BUILT_IN)


NAMES = st.one_of(st.sampled_from(["temperature", "metadata", "tools", "user", '"images"', "é"]), st.text(max_size=4))


@given(st.data())
def test_an_unconcerned_request_is_not_changed_by_a_byte(data):
    value = data.draw(st.dictionaries(NAMES, VALUES, max_size=4))
    for name in ("drop_params", "model_type", "images", "messages"):
        value.pop(name, None)
    body = data.draw(written({**value, "model": "m"}, escaped_names=False)).encode()
    operation = data.draw(st.sampled_from([CHAT, EMBEDDINGS]))
    call = decode(INBOUND, operation, body, "k")
    assert adapt(call, TARGET, BUILT_IN) is call
    assert call.body is body


@given(st.data())
def test_decoding_and_rules_do_what_a_plain_model_does(data):
    value = data.draw(st.dictionaries(NAMES, VALUES, max_size=3))
    images = data.draw(st.lists(st.sampled_from(["http://h/a", PNG]), max_size=2))
    content = data.draw(st.sampled_from([None, "", "text", [{"type": "text", "text": "t"}]]))
    more = {"model": "m", "stream": data.draw(st.booleans()), "messages": [{"role": "user", "content": content}]}
    strays = data.draw(st.dictionaries(st.sampled_from(["drop_params", "model_type"]), VALUES))
    whole = {**value, **more, **strays, **({"images": images} if images else {})}
    ordered = {name: whole[name] for name in data.draw(st.permutations(sorted(whole)))}
    body = data.draw(written(ordered, escaped_names=False)).encode()

    call = decode(INBOUND, CHAT, body, "k")
    adapted = adapt(call, Target("chat", "deployed"), BUILT_IN)

    assert (call.model, call.stream) == ("m", whole["stream"])
    expected = {name: value for name, value in json.loads(body).items() if name not in (*strays, "images")}
    expected["model"] = "deployed"
    if images:
        old = [{"type": "text", "text": content}] if content == "text" else list(content or [])
        urls = [f"data:image/png;base64,{PNG}" if image == PNG else image for image in images]
        new = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        expected["messages"] = [{"role": "user", "content": [*old, *new]}]
    assert list(json.loads(adapted.body).items()) == list(expected.items())


MENTIONS = [
    *(b'"drop_params":1', b'"model_type":"chat"', b'"stream_options":{}', b'"encoding_format":"base64"'),
    *(b'"images":["http://h"]', b'"messages":[{"role":"user","images":["http://h"]}]', b'"im\\u0061ges":["http://h"]'),
    *(b'"dr\\u006fp_params":1', b'"a":"images"', b'"a":"\\"images"', b'"a":"\\u00e9"', b'"input":"base64"'),
    *(b'"stream\\u005foptions":{}', b'"encoding_format":"b\\u0061se64"', b'"n":1', b'"a":"' + b"x" * 5000 + b'"'),
]


@pytest.mark.parametrize("operation", [CHAT, EMBEDDINGS, RESPONSES])
@pytest.mark.parametrize("stream", [b"true", b"false"])
def test_one_look_at_a_body_settles_what_each_rule_would(operation, stream):
    for first, second in itertools.product(MENTIONS, MENTIONS):
        body = b'{%b,"model":"m",%b,"messages":[{"role":"user"}],"stream":%b}' % (first, second, stream)
        call = a_call(body, operation, stream=stream == b"true")
        for target in (TARGET, Target("chat", "deployed")):
            assert outcome(call, target, BUILT_IN) == outcome(call, target, list(BUILT_IN))


def outcome(call, target, rules):
    try:
        adapted = adapt(call, target, rules)
    except InvalidImage as refusal:
        return refusal.message
    return adapted, adapted is call


def large(image: str) -> Call:
    document = {"messages": [{"role": "user", "content": "what is it?"}], "images": [image], "model": "m"}
    return decode(INBOUND, CHAT, json.dumps(document).encode(), "k")


def test_a_large_image_is_copied_once_and_never_decoded():
    image = PNG.rstrip("=") + "A" * 4_000_000
    call = large(image)
    tracemalloc.start()
    adapted = adapt(call, TARGET, BUILT_IN)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    url = json.loads(adapted.body)["messages"][0]["content"][1]["image_url"]["url"]
    assert url == f"data:image/png;base64,{image}" + "=" * (-len(image) % 4)
    assert peak < 1.1 * len(call.body)


def test_reading_a_large_body_copies_nothing_of_it():
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "é" * 2_000_000}]}).encode()
    tracemalloc.start()
    decode(INBOUND, CHAT, body, "k")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.1 * len(body)


def test_a_body_of_many_members_costs_no_more_than_it_is():
    body = b'{"model":"m",' + b",".join(b'"%06d":[]' % at for at in range(100_000)) + b"}"
    tracemalloc.start()
    decode(INBOUND, CHAT, body, "k")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * len(body)


@pytest.mark.parametrize("one", ["1", "{}", '""'])
def test_a_body_of_many_inputs_costs_no_more_than_it_is(one: str):
    body = f'{{"model":"m","input":[{",".join([one] * 500_000)}]}}'.encode()
    tracemalloc.start()
    decode(INBOUND, EMBEDDINGS, body, "k")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * len(body)
