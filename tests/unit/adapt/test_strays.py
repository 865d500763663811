"""Rule "strays"."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.adapt.strays import Strays
from gatepass.call import Call
from tests.unit.adapt.calls import CHAT, EMBEDDINGS, MODELS, TARGET, a_call
from tests.unit.surface.json_texts import STRINGS, VALUES, written

RAGFLOW_EMBEDDING = (
    b'{"input": ["Test if the api key is available"], "model": "bge-m3", "encoding_format": "float", '
    b'"drop_params": true}'
)
"""What RAGFlow v0.21.1 to v0.27.0 sends (infiniflow/ragflow#18584)."""


def apply(body: bytes, operation=EMBEDDINGS) -> Call:
    return Strays().apply(a_call(body, operation), TARGET)


def test_ragflows_embedding_loses_drop_params_and_nothing_else():
    adapted = apply(RAGFLOW_EMBEDDING)
    assert adapted.body == (
        b'{"input": ["Test if the api key is available"], "model": "bge-m3", "encoding_format": "float"}'
    )
    assert adapted.adapted == ("drop=drop_params",)


@pytest.mark.parametrize("operation", [CHAT, EMBEDDINGS])
def test_both_strays_go_and_are_named_once(operation):
    body = b'{"model_type":"chat","model":"m", "drop_params":true,"a" : 1 , "model_type":null}'
    adapted = apply(body, operation)
    assert adapted.body == b'{"model":"m","a" : 1}'
    assert adapted.adapted == ("drop=drop_params,model_type",)


def test_a_stray_in_escapes_goes_too():
    assert apply(b'{"drop\\u005fparams":{"a":[1]},"model":"m"}').body == b'{"model":"m"}'
    assert apply(b'{"model":"m","\\u006dodel_type":"x"}').adapted == ("drop=model_type",)


def test_what_was_adapted_before_stays_named():
    adapted = Strays().apply(a_call(b'{"drop_params":1}', adapted=("images=1",)), TARGET)
    assert adapted.adapted == ("images=1", "drop=drop_params")


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","input":"drop_params"}',
        b'{"model":"m","metadata":{"drop_params":true,"model_type":"x"}}',
        b'{"model":"m","input":["\\u0064rop_params", "say \\"drop_params"]}',
        b'{"model":"m","drop_param":1,"Model_type":2,"model_types":3}',
    ],
)
def test_the_same_words_elsewhere_are_left_alone(body):
    call = a_call(body, EMBEDDINGS)
    assert Strays().apply(call, TARGET) is call


def test_a_request_without_a_body_is_left_alone():
    call = a_call(b"", MODELS)
    assert Strays().apply(call, TARGET) is call


@given(st.data())
def test_the_rule_is_removal_from_the_object(data):
    value = data.draw(st.dictionaries(STRINGS, VALUES, max_size=4))
    names = [*value, *data.draw(st.lists(st.sampled_from(["drop_params", "model_type"]), unique=True))]
    whole = {name: value.get(name, True) for name in data.draw(st.permutations(names))}
    call = a_call(data.draw(written(whole)).encode(), EMBEDDINGS)
    adapted = Strays().apply(call, TARGET)
    left = {name: inner for name, inner in whole.items() if name not in ("drop_params", "model_type")}
    assert list(json.loads(adapted.body).items()) == list(left.items())
    assert (adapted is call) == (left == whole)
