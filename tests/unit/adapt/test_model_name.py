"""Rule "model"."""

from gatepass.adapt.model_name import ModelName
from gatepass.call import Target
from tests.unit.adapt.calls import EMBEDDINGS, MODELS, a_call

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
