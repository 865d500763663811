"""Stored objects: which operations a key opens, and which members of a body or parts of a form name such an object."""

import json
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.auth.model_access import (
    ANSWERS,
    FILES,
    FREE,
    OF_ANSWERS,
    OF_FILES,
    check_body_access,
    check_operation_access,
    check_part_access,
    closed_objects,
)
from gatepass.config.access import AccessKey, KeyOperation
from gatepass.errors import GatepassError, OperationNotAllowed
from gatepass.operations.table import OPERATIONS
from gatepass.proxy.uploads import MultipartScan

BOTH = (ANSWERS, FILES)


def key(**settings: Any) -> AccessKey:
    return AccessKey(name="bot", hash="sha256:" + "0" * 64, **settings)


def permitted(body: bytes, closed: tuple[str, ...] = BOTH, **settings: Any) -> bool:
    try:
        check_body_access(key(**settings), body, closed=closed, has_items=True)
    except OperationNotAllowed as error:
        return "access.keys[].operations" not in error.message
    return True


NAMING: dict[str, tuple[dict[str, Any], ...]] = {
    ANSWERS: (
        *({name: "x_1"} for name in OF_ANSWERS),
        {"conversation": {"id": "conv_1"}},
        {"prompt": {"id": "pmpt_1", "version": "2"}},
        {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        {"input": [{"role": "user", "content": "x"}, {"id": "msg_1"}]},
        {"input": [{"id": "msg_1", "role": None}]},
        {"input": [{"id": "msg_1", "role": "user"}]},
        {"input": [{"id": "msg_1", "type": None, "role": "user", "content": None}]},
        {"input": [{"type": None, "id": "msg_1"}]},
        {"input": [{"type": "image_generation_call", "id": "ig_1"}]},
        {"extra_body": {"google": {"cached_content": "cachedContents/1"}}},
    ),
    FILES: (
        *({name: "x_1"} for name in OF_FILES),
        {"container": {"id": "cntr_1"}},
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}]},
        {"input": [{"type": "function_call_output", "output": [{"type": "input_file", "file_id": "file-1"}]}]},
        {"input": [{"type": "code_interpreter_call", "id": "ci_1", "container_id": "cntr_1"}]},
        {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
        {"tools": [{"type": "code_interpreter", "container": "cntr_1"}]},
        {"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-1"]}}]},
        {"tools": [{"type": "image_generation", "input_image_mask": {"file_id": "file-1"}}]},
        {"tools": [{"type": "shell", "environment": {"type": "container_reference", "container_id": "cntr_1"}}]},
        {"mask": {"file_id": "file-1"}},
        {"images": [{"file_id": "file-1"}]},
        {"attachments": [{"file_id": "file-1"}]},
    ),
}
CASES: list[tuple[str, dict[str, Any]]] = [(kind, naming) for kind in BOTH for naming in NAMING[kind]]


def _renamed(value: Any, rename: Any) -> str:
    """Write `value` as JSON with each member's name as `rename` spells it."""
    if isinstance(value, dict):
        return "{" + ",".join(f'"{rename(name)}":{_renamed(inner, rename)}' for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_renamed(inner, rename) for inner in value) + "]"
    return json.dumps(value)


SPELLINGS: tuple[Callable[[str], str], ...] = (
    str,
    str.upper,
    lambda name: f"\\u{ord(name[0]):04x}{name[1:]}",
    lambda name: name.replace("_", "\\u005f"),
    lambda name: name.replace("_", "-"),
    lambda name: name[0] + "".join(map(str.capitalize, name.split("_")))[1:],  # in camels
    lambda name: name.replace("i", "\u0131").replace("s", "\u017f"),  # which fold to the letters
    lambda name: name.replace("i", "\\u0131").replace("s", "\\u017f"),
)


def test_a_closed_object_is_not_named_in_any_spelling():
    image = '"x":"' + "a" * 10_000 + '"'
    for (kind, naming), spell in product(CASES, SPELLINGS):
        members = _renamed(naming, spell)[1:-1]
        twins = _renamed(dict.fromkeys(naming), str)[
            1:-1
        ]  # `{"file_id": null, "file_id": "x"}`: some parser takes each
        for body in (f"{members}", f"{twins},{members}", f"{members},{twins}", f"{image},{members},{image}"):
            data = f'{{"model":"m",{body}}}'.encode()
            assert not permitted(data, (kind,)), data
            assert permitted(data, tuple(other for other in BOTH if other != kind)), data


UNNAMED: tuple[dict[str, Any], ...] = (
    {"messages": [{"role": "user", "content": '{"file_id": "x", "container": "y"}'}]},
    {"messages": [{"role": "assistant", "content": "x", "audio": None, "tool_calls": [{"id": "call_1"}]}]},
    {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}, "prompt": "a text"},
    {"prompt": ["a", "b"]},
    {"previous_response_id": None, "conversation": None, "file_ids": [], "container": None},
    {"metadata": {"file_id": "x", "conversation": "y"}},
    {"tools": [{"type": "function", "function": {"parameters": {"properties": {"file_id": {"type": "string"}}}}}]},
    {"tools": [{"name": "f", "parameters": {"$defs": {"file_ids": {}}, "required": ["file_id", "container"]}}]},
    {"tools": [{"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "1g"}}]},
    {"response_format": {"json_schema": {"schema": {"properties": {"container": {"type": "string"}}}}}},
    {"input": "a text", "text": {"format": {"type": "text"}}},
    {"input": [{"type": "message", "id": "msg_1", "role": "assistant", "content": []}]},
    {"input": [{"id": "msg_1", "role": "assistant", "content": []}, {"type": "function_call", "id": "fc_1"}]},
    {"input": [{"type": "reasoning", "id": "rs_1", "summary": []}, ["id"], "id", 1]},
    {"documents": [{"text": "x", "file_id": "mine"}]},
    {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": {"file_id": "x"}}}]}]},
)


def test_other_members_pass_a_key_without_stored_objects():
    for members, models in product(UNNAMED, (None, ["m"])):
        assert permitted(json.dumps({"model": "m", **members}).encode(), models=models), members


_NAMES = st.sampled_from([*OF_FILES, *sorted(FREE), "x", "role", "Datei\u0131"])


@given(st.recursive(st.none() | st.text(max_size=9), lambda inner: st.lists(inner) | st.dictionaries(_NAMES, inner)))
def test_a_name_is_found_at_each_place_and_a_free_one_at_none(value):
    """Compare the scan with a walk over the parsed body."""
    body = json.dumps({"x": value}, ensure_ascii=False).encode()
    assert permitted(body, (FILES,)) is not _walked(value)


def _walked(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_walked, value))
    if not isinstance(value, dict):
        return False
    for name, inner in value.items():
        names_one = inner not in (None, []) and not (name == "container" and isinstance(inner, dict))
        if (name in OF_FILES and names_one) or (name not in FREE and _walked(inner)):
            return True
    return False


def reads_form(name: str, closed: tuple[str, ...] = BOTH) -> bool:
    part = '--b\r\nContent-Disposition: form-data; name="{}"\r\n\r\nx\r\n'
    scan = MultipartScan(b"b", partial(check_part_access, key(), closed=closed))
    try:
        scan.feed(f"{part.format(name)}--b--\r\n".encode())
    except GatepassError:
        return False
    return True


def test_no_part_of_a_form_names_a_closed_object():
    spellings: tuple[Callable[[str], str], ...] = (str, str.upper, _percents)
    for kind, names in ((ANSWERS, OF_ANSWERS), (FILES, OF_FILES)):
        for form in ("{}", "{}[]", "{}[0]", "images[0][{}]", "x.{}", " {} "):
            for name, spell in product(names, spellings):
                assert not reads_form(form.format(spell(name)), (kind,)), (form, name)
                assert reads_form(form.format(spell(name)), ()), (form, name)


def _percents(name: str) -> str:
    return "".join(f"%{ord(char):02x}" for char in name)


def test_the_usual_parts_of_forms_pass():
    usual = ("file", "purpose", "prompt", "language", "image", "image[]", "mask", "expires_after[anchor]", "n")
    assert all(map(reads_form, usual))
    assert not reads_form("prompt[id]")


ROWS = {f"{row.method} {row.path}": row for row in OPERATIONS}
STORED = (
    {name for name in ROWS if name.split("/")[1] in ("files", "batches")}
    | {name for name in ROWS if name.split("/")[1:3] == ["messages", "batches"]}
    | {name for name in ROWS if name.startswith(("GET /responses", "DELETE /responses", "POST /responses/{id}"))}
)
KINDS = {
    "one caller": (key(), False),
    "one of two callers": (key(), True),
    "some models": (key(models=["m"]), False),
    "some models, one of two callers": (key(models=["m"]), True),
}


def used(caller: AccessKey, *, shares_objects: bool) -> set[str]:
    found = set()
    for name, row in ROWS.items():
        try:
            check_operation_access(caller, row, shares_objects=shares_objects)
        except OperationNotAllowed as error:
            if ("access.keys[].operations" in error.message) is ("without models" in error.message):
                found.add(error.message)
        else:
            found.add(name)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_without_operations_only_a_caller_alone_uses_stored_objects(kind):
    caller, shares_objects = KINDS[kind]
    assert used(caller, shares_objects=shares_objects) == ROWS.keys() - (STORED if kind != "one caller" else set())
    assert closed_objects(caller, shares_objects=shares_objects) == (() if kind == "one caller" else BOTH)


ENTRIES = {
    "GET files": {"GET /files", "GET /files/{id}", "GET /files/{id}/content"},
    "POST files": {"POST /files"},
    "DELETE files": {"DELETE /files/{id}"},
    "GET batches": {"GET /batches", "GET /batches/{id}"},
    "POST batches": {"POST /batches"},
    "DELETE batches": {"POST /batches/{id}/cancel"},
    "GET responses": {"GET /responses/{id}", "GET /responses/{id}/input_items"},
    "POST responses": {"POST /responses", "POST /responses/compact"},
    "DELETE responses": {"DELETE /responses/{id}", "POST /responses/{id}/cancel"},
    "GET message_batches": {
        *("GET /messages/batches", "GET /messages/batches/{id}", "GET /messages/batches/{id}/results"),
    },
    "POST message_batches": {"POST /messages/batches"},
    "DELETE message_batches": {"DELETE /messages/batches/{id}", "POST /messages/batches/{id}/cancel"},
    "messages": {"POST /messages", "POST /messages/count_tokens"},
    "chat": {"POST /chat/completions"},
    "models": {"GET /models", "GET /models/{model}"},
    "images": {"POST /images/generations", "POST /images/edits", "POST /images/variations"},
}
OPENED = {"GET files": FILES, "files": FILES, "GET responses": ANSWERS, "responses": ANSWERS}


def test_an_entry_opens_its_operations_and_members_and_nothing_else():
    opened_rows = set[str]()
    for entry, shares_objects, models in product(get_args(KeyOperation), (False, True), (None, ["m"])):
        caller = key(operations=[entry], models=models)
        expected = ENTRIES.get(entry) or {name for name, row in ROWS.items() if row.name == entry}
        assert expected
        assert used(caller, shares_objects=shares_objects) == expected, entry
        left = tuple(kind for kind in BOTH if kind != OPENED.get(entry))
        assert closed_objects(caller, shares_objects=shares_objects) == left, entry
        opened_rows |= expected
    assert opened_rows == ROWS.keys()


NO_LIST = (
    "List all that the caller uses in access.keys[].operations, such as [chat, models, {}]."
    " Everything else is then closed."
)


@pytest.mark.parametrize(
    ("settings", "row", "use", "remedy"),
    [
        ({}, "GET /files", "use GET files", NO_LIST.format('"GET files"')),
        ({}, "POST /batches", "use POST batches", NO_LIST.format('"POST batches", "GET files"')),
        ({"models": ["m"]}, "GET /files", "use GET files", NO_LIST.format('"GET files"')),
        *(
            (
                {"models": ["m"], **listed},
                "POST /batches",
                "use POST batches",
                "Use a key without models: a batch may run any model.",
            )
            for listed in ({}, {"operations": ["chat"]})
        ),
        (
            {"operations": ["chat"]},
            "GET /models/{model}",
            "use GET models",
            "Add 'models' to access.keys[].operations.",
        ),
        (
            {"operations": ["chat"]},
            "POST /responses/{id}/cancel",
            "cancel responses",
            "Add 'DELETE responses' to access.keys[].operations.",
        ),
    ],
)
def test_the_remedy_closes_nothing_that_the_caller_uses(settings, row, use, remedy):
    with pytest.raises(OperationNotAllowed) as caught:
        check_operation_access(key(**settings), ROWS[row], shares_objects=True)
    assert caught.value.message.startswith(f"The caller 'bot' may not {use}, because ")
    assert caught.value.message.endswith(f". {remedy}")


def test_a_reference_is_named_by_its_place():
    body = b'{"input": [{"role": "user", "content": "x"}, {"type": "item_reference", "id": "msg_1"}]}'
    with pytest.raises(OperationNotAllowed) as caught:
        check_body_access(key(), body, closed=BOTH, has_items=True)
    assert caught.value.param == "input[1]"
    remedy = NO_LIST.format('"GET responses"')
    advice = f"and send its content, or, if the upstream stores responses, {remedy[0].lower()}{remedy[1:]}"
    assert caught.value.message.endswith(f"'input[1]' names one. Leave it out {advice}")
