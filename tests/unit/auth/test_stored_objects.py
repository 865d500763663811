"""Stored objects: which operations a key opens, and which members of a request for a response name such an object."""

import json
from collections.abc import Callable
from itertools import product
from typing import Any, get_args

import pytest

from gatepass.auth.caller import Caller
from gatepass.auth.model_access import STORED_RESPONSES, check_operation_access, check_stored_access, stored_member
from gatepass.config.access import KeyOperation
from gatepass.errors import NotAllowed
from gatepass.json_body import TopLevel
from gatepass.protocols.operations import OPERATIONS


def key(**settings: Any) -> Caller:
    return Caller("bot", "bot", **settings)


NAMING: tuple[tuple[str, str], ...] = (
    ("previous_response_id", '"resp_1"'),
    ("conversation", '"conv_1"'),
    ("conversation", '{"id": "conv_1"}'),
    ("prompt", '{"id": "pmpt_1", "version": "2"}'),
    ("prompt", '{"id": null, "ID": "pmpt_1"}'),
    ("prompt", '{"_id": "pmpt_1"}'),
    ("prompt", '{"I-D": "pmpt_1"}'),
)
SPELLINGS: tuple[Callable[[str], str], ...] = (
    str,
    str.upper,
    lambda name: name.replace("_", "-"),
    lambda name: name[0] + name.title().replace("_", "")[1:],  # previousResponseId
    lambda name: f"_{name.upper()}-",
    lambda name: f"\\u{ord(name[0]):04x}{name[1:]}",
    lambda name: name.replace("i", "\u0131").replace("s", "\u017f"),  # which fold to the letters
)


def test_a_stored_response_is_found_in_each_spelling_and_beside_a_twin():
    """Some parser takes each of `{"conversation": null, "conversation": "x"}`."""
    image = '"x":"' + "a" * 300_000 + '"'
    for (name, value), spell in product(NAMING, SPELLINGS):
        member, twin = f'"{spell(name)}": {value}', f'"{name}": null'
        for members in (member, f"{twin},{member}", f"{member},{twin}", f"{image},{member},{image}"):
            found = stored_member(TopLevel(f'{{"model":"m",{members}}}'.encode()))
            assert found == ("prompt.id" if name == "prompt" else name), members


def test_a_stored_response_is_found_in_extra_body():
    for name, value in NAMING:
        found = stored_member(TopLevel(f'{{"model":"m","Extra-Body":{{"{name}": {value}}}}}'.encode()))
        assert found == ("prompt.id" if name == "prompt" else name)


@pytest.mark.parametrize(
    "members",
    [
        {"previous_response_id": None, "conversation": None, "prompt": None},
        {"prompt": "a text", "input": "previous_response_id"},
        {"prompt": {"version": "2"}, "metadata": {"conversation": "x"}},
        # nested ids are not searched
        {"input": [{"type": "item_reference", "id": "msg_1"}, {"content": [{"file_id": "file-1"}]}]},
        {"client_metadata": {"previous_response_id": "x"}, "tools": [{"container": "c"}]},
    ],
)
def test_other_members_name_no_stored_response(members: dict[str, Any]):
    assert stored_member(TopLevel(json.dumps({"model": "m", **members}).encode())) is None


def test_only_stored_responses_opens_the_members():
    check_stored_access(key(operations=["responses", STORED_RESPONSES]), "conversation")
    listed = [[entry] for entry in get_args(KeyOperation) if entry != STORED_RESPONSES]
    for operations in (None, [], *listed):
        with pytest.raises(NotAllowed, match=r"access\.keys") as caught:
            check_stored_access(key(operations=operations), "conversation")
        assert caught.value.param == "conversation"


ROWS = {f"{row.method} {row.path}": row for row in OPERATIONS}
ENTRIES = {
    "files": {name for name in ROWS if name.split("/")[1] == "files"},
    "batches": {name for name in ROWS if name.split("/")[1] == "batches"},
    "stored_responses": {name for name in ROWS if "/responses/{id}" in name},
    "responses": {"POST /responses", "POST /responses/compact", "POST /responses/input_tokens"},
    "messages": {"POST /messages", "POST /messages/count_tokens"},
    "models": {"GET /models", "GET /models/{model}"},
    "images": {"POST /images/generations", "POST /images/edits", "POST /images/variations"},
}
STORED = ENTRIES["files"] | ENTRIES["batches"] | ENTRIES["stored_responses"]


def used(caller: Caller) -> set[str]:
    found = set()
    for name, row in ROWS.items():
        try:
            check_operation_access(caller, row)
        except NotAllowed:
            continue
        found.add(name)
    return found


def test_without_operations_no_key_uses_stored_objects():
    assert len(STORED) == 13
    assert used(key()) == used(key(models=["m"])) == ROWS.keys() - STORED
    assert used(key(operations=[])) == set()


def test_an_entry_opens_its_operations_and_nothing_else():
    opened = set[str]()
    for entry in get_args(KeyOperation):
        expected = ENTRIES.get(entry) or {name for name, row in ROWS.items() if row.name == entry}
        assert used(key(operations=[entry])) == expected, entry
        opened |= expected
    assert opened == ROWS.keys()


NO_LIST = (
    "List all that the caller uses in access.keys[].operations, such as [chat, responses, models, {}]."
    " Everything else is then closed."
)


@pytest.mark.parametrize(
    ("settings", "row", "remedy"),
    [
        ({}, "GET /files", NO_LIST.format("files")),
        ({"models": ["m"]}, "POST /batches", "Use a key without models: a batch may run any model."),
        ({"operations": ["chat"]}, "GET /models/{model}", "Add 'models' to access.keys[].operations."),
        (
            {"operations": ["chat"]},
            "POST /responses/{id}/cancel",
            "Add 'stored_responses' to access.keys[].operations.",
        ),
    ],
)
def test_the_remedy_closes_nothing_that_the_caller_uses(settings, row, remedy):
    with pytest.raises(NotAllowed) as caught:
        check_operation_access(key(**settings), ROWS[row])
    assert caught.value.message.startswith(f"The caller 'bot' may not use {ROWS[row].opened_by}, because ")
    assert caught.value.message.endswith(f". {remedy}")
