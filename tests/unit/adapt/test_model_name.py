"""Rule "model"."""

import json

import pytest
from msgspec.structs import replace

from gatepass.adapt.model_name import ModelName, with_model
from gatepass.call import Target
from gatepass.surface.operations import match
from tests.unit.adapt.calls import EMBEDDINGS, MODELS, a_call

MODERATIONS = match("POST", "/v1/moderations").operation
BODY = b'{ "messages" : [{"role":"user","content":"\\u00e9","model":"inner"}],\n "model" : "m" , "x":1e999 }'


def test_only_the_models_value_changes():
    adapted = ModelName().apply(a_call(BODY), Target("chat", "gpt-4o-240806-deploy-gs"))
    assert adapted.body == BODY.replace(b'"model" : "m"', b'"model" : "gpt-4o-240806-deploy-gs"')


def test_the_call_keeps_the_public_name_and_shows_no_entry():
    call = a_call(BODY)
    adapted = ModelName().apply(call, Target("chat", "other"))
    assert (adapted.model, adapted.adapted) == ("m", ())
    assert call.body == BODY


def test_a_name_is_written_as_json():
    adapted = ModelName().apply(a_call(b'{"model":"m"}', EMBEDDINGS), Target("chat", 'a"b\\模'))
    assert adapted.body == '{"model":"a\\"b\\\\模"}'.encode()


def test_without_another_name_the_call_is_the_same():
    call = a_call(BODY)
    assert ModelName().apply(call, Target("chat")) is call
    assert ModelName().apply(call, Target("chat", "m")) is call


def test_a_name_written_in_escapes_is_the_same_name():
    call = a_call(b'{"model":"\\u006d"}')
    assert ModelName().apply(call, Target("chat", "m")) is call


def test_a_request_without_a_body_is_left_alone():
    call = a_call(b"", MODELS)
    assert ModelName().apply(call, Target("chat", "other")) is call


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"input":["a"]}', b'{"model":"m","input":["a"]}'),
        (b' \n{ "x" : {"model":"inner"} }\t', b' \n{"model":"m", "x" : {"model":"inner"} }\t'),
        (b"{}", b'{"model":"m"}'),
        (b" { \n} ", b' {"model":"m" \n} '),
    ],
)
def test_a_body_that_names_no_model_gets_one_and_keeps_its_bytes(body, named):
    call = with_model(a_call(body, EMBEDDINGS), "m")
    assert (call.body, call.adapted) == (named, ("default=model",))
    assert json.loads(call.body)["model"] == "m"


def test_a_call_that_names_no_model_goes_up_under_the_targets():
    call = replace(a_call(b'{"input":"a"}', MODERATIONS), model="")
    adapted = ModelName().apply(call, Target("chat", "there"))
    assert (adapted.body, adapted.adapted) == (b'{"model":"there","input":"a"}', ("default=model",))
    assert ModelName().apply(call, Target("chat")) is call


def test_a_model_that_an_earlier_rule_put_in_is_not_put_in_twice():
    call = replace(a_call(b'{"query":"a","model":"there"}', MODERATIONS), model="")
    assert ModelName().apply(call, Target("chat", "there")).body == call.body


def test_a_call_that_is_about_no_model_has_one_renamed_where_it_names_it_and_gets_none():
    batch = match("POST", "/v1/batches").operation
    for model in ("", "dm"):
        call = replace(a_call(b'{"input_file_id":"f"}', batch), model=model)
        assert ModelName().apply(call, Target("chat", "there")) is call
    named = ModelName().apply(a_call(b'{"model":"m"}', batch), Target("chat", "there"))
    assert (named.body, named.adapted) == (b'{"model":"there"}', ())
