"""Calls and tools of a translated request: ids, schemas, and tools that the client runs."""

import re

import pytest

from gatepass.errors import InvalidRequest
from gatepass.protocols.translation.chat_request import Dropped, chat_id, client_id, schema_of
from gatepass.protocols.translation.message_translation import chat_of_message
from gatepass.protocols.translation.response_translation import chat_of_response


@pytest.mark.parametrize(
    "given", ["functions.f:0", "call|1", "a b", "é", "\ud83d", "x" * 300 + ".", "gp.Zg", "id=="], ids=repr
)
def test_the_id_of_a_call_has_the_letters_that_models_accept_and_is_mapped_back(given):
    assert re.fullmatch(r"[A-Za-z0-9_-]+", client_id(given))
    assert chat_id(client_id(given)) == given


@pytest.mark.parametrize("given", ["call_1", "toolu_01-A", "gp_", "gp_Zg", "gp_x", "gp_ZnVuYw", "a.b", ""])
def test_other_ids_stay(given):
    assert chat_id(given) == given
    if re.fullmatch(r"[A-Za-z0-9_-]*", given):
        assert client_id(given) == given


@pytest.mark.parametrize("kind", ["shell", "local_shell", "apply_patch", "computer_use_preview"])
def test_a_tool_of_a_response_that_the_client_runs_is_refused_by_name(kind):
    with pytest.raises(InvalidRequest, match=f"`tools.0` is '{kind}', which the client runs"):
        chat_of_response({"input": "Hi", "tools": [{"type": kind}]}, Dropped())


def test_a_shell_in_a_container_of_the_server_is_left_out():
    dropped = Dropped()
    chat_of_response({"input": "Hi", "tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}, dropped)
    assert dropped.entries == ("untranslated=shell",)


@pytest.mark.parametrize("given", [None, {}, {"type": None}, {"type": "object"}, {"properties": {}}])
def test_a_function_always_has_a_schema(given):
    assert schema_of(given) == {"type": "object", "properties": {}}
    own = {"type": "object", "properties": {"a": {}}, "required": ["a"]}
    assert schema_of(own) == own


@pytest.mark.parametrize(("effort", "sent"), [("low", "low"), ("high", "high"), ("max", "xhigh")])
def test_the_effort_of_a_message_is_that_of_the_chat(effort, sent):
    request = {"messages": [{"role": "user", "content": "Hi"}], "output_config": {"effort": effort}}
    assert chat_of_message(request, Dropped())[0]["reasoning_effort"] == sent
