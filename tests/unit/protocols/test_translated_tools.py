"""Calls and tools of a translated request: ids and schemas."""

import re

import msgspec
import pytest

from gatepass.normalize.messages import chat_id, client_id
from gatepass.protocols.translation.chat_request import OBJECT, schema_of
from gatepass.sse.chunk import json_text


@pytest.mark.parametrize(
    "given", ["functions.f:0", "call|1", "a b", "é", "\ud83d", "x" * 300 + ".", "gp.Zg", "id=="], ids=repr
)
def test_the_id_of_a_call_has_the_letters_that_models_accept_and_is_mapped_back(given):
    assert re.fullmatch(r"[A-Za-z0-9_-]+", client_id(given))
    assert chat_id(client_id(given)) == (given, "")


@pytest.mark.parametrize("given", ["call_1", "toolu_01-A", "gp_", "gp_Zg", "gp_x", "gp_ZnVuYw", "a.b", ""])
def test_other_ids_stay(given):
    assert chat_id(given) == (given, "")
    if re.fullmatch(r"[A-Za-z0-9_-]*", given):
        assert client_id(given) == given


@pytest.mark.parametrize("given", [None, {}, {"type": None}, {"type": "object"}, {"properties": {}}])
def test_a_function_always_has_a_schema(given):
    def schema(value: object) -> object:
        return msgspec.json.decode(json_text(schema_of(OBJECT.decode(json_text(value)))))

    assert schema(given) == {"type": "object", "properties": {}}
    own = {"type": "object", "properties": {"a": {}}, "required": ["a"]}
    assert schema(own) == own
