import pytest

from gatepass.sse.choice_repair import chat_reason, standard_reason
from gatepass.sse.tool_calls import (
    TOOL_ARGUMENTS,
    TOOL_ID,
    TOOL_INDEX,
    TOOL_NAME,
    TOOL_TYPE,
    ArgumentBuffer,
    ToolRepair,
)
from tests.unit.sse.documents import origin
from tests.unit.sse.replies import without


def repaired(*entries):
    """What is sent of entries that arrive in a delta each, and at the end."""
    repair, notes, sent = ToolRepair(origin(), ArgumentBuffer(), 0), list[str](), []
    for entry in entries:
        repair.repair(delta := [entry], notes.append)
        sent += delta
    return sent + repair.take_rest(notes.append), list(dict.fromkeys(notes))


def opener(index=0, identity="a", name="f", arguments="", **more):
    return {
        "index": index,
        "id": identity,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
        **more,
    }


def rest(index=0, arguments="{}"):
    return {"index": index, "function": {"arguments": arguments}}


MADE = "call_000000000000000000000001"


@pytest.mark.parametrize(
    ("entries", "expected", "notes"),
    [
        pytest.param(
            [without(opener(), "index"), without(opener(identity="b"), "index"), without(rest(), "index")],
            [opener(), opener(1, "b"), rest(1)],
            [TOOL_INDEX],
            id="no index",
        ),
        pytest.param([opener(None), rest("0")], [opener(), rest()], [TOOL_INDEX], id="odd indices"),
        pytest.param([opener(True)], [opener()], [TOOL_INDEX], id="true is no index"),
        pytest.param([opener(), opener(0, "b")], [opener(), opener(1, "b")], [TOOL_INDEX], id="all index 0"),
        pytest.param([opener(2), rest(2)], [opener(), rest()], [TOOL_INDEX], id="begins at 2"),
        pytest.param(
            [opener(), opener(arguments="{}")],
            [opener(), {"index": 0, "type": "function", "function": {"arguments": "{}"}}],
            [TOOL_ID, TOOL_NAME],
            id="id and name repeated",
        ),
        pytest.param([opener(), rest() | {"id": "other"}], [opener(), rest()], [TOOL_ID], id="id changed"),
        pytest.param([opener(identity=""), rest()], [opener(identity=MADE, arguments="{}")], [TOOL_ID], id="empty id"),
        pytest.param(
            [opener(identity=None), rest() | {"id": "late"}],
            [opener(identity="late", arguments="{}")],
            [TOOL_ID],
            id="late id",
        ),
        pytest.param(
            [opener(identity=None, arguments="{"), rest(arguments="}") | {"id": "late"}],
            [opener(identity=MADE, arguments="{"), rest(arguments="}")],
            [TOOL_ID],
            id="too late an id",
        ),
        pytest.param([opener(identity=7)], [opener(identity="7")], [TOOL_ID], id="a number as id"),
        pytest.param(
            [opener(), opener(1)],
            [opener(), {"index": 0, "type": "function", "function": {"arguments": ""}}],
            [TOOL_INDEX, TOOL_ID, TOOL_NAME],
            id="one id is one call",
        ),
        pytest.param([without(opener(), "type")], [opener()], [TOOL_TYPE], id="no type"),
        pytest.param(
            [{"index": 0, "id": "a", "custom": {"name": "f"}}],
            [{"index": 0, "id": "a", "custom": {"name": "f"}, "type": "custom"}],
            [TOOL_TYPE],
            id="no type of a custom tool",
        ),
        pytest.param(
            [opener(arguments={"a": "ö"})], [opener(arguments='{"a":"ö"}')], [TOOL_ARGUMENTS], id="arguments as object"
        ),
        pytest.param([opener(arguments=None)], [opener(arguments=None)], [], id="null arguments say nothing"),
    ],
)
def test_each_defect_is_repaired_and_named(entries, expected, notes):
    assert repaired(*entries) == (expected, notes)


def test_name_that_comes_after_the_opener_is_sent_once():
    late = {"index": 0, "function": {"name": "f", "arguments": ""}}
    entries, notes = repaired(
        {"index": 0, "id": "a", "type": "function"}, late, {"index": 0, "function": {"name": "f"}}
    )
    assert (entries, notes) == ([opener(), {"index": 0, "function": {}}], [TOOL_NAME])


STOPS: list[object] = [None, "", 1, [], "eos", "eos_token", "end_turn", "STOP", "stop_sequence"]


@pytest.mark.parametrize(
    ("payload", "meant"),
    [
        *[(word, "stop") for word in STOPS],
        *[(word, "length") for word in ("max_tokens", "MAX_TOKENS", "insufficient_system_resource", "abort", "error")],
        *[(word, "length") for word in ("model_context_window_exceeded", "pause_turn", "max_output_tokens")],
        *[(word, "content_filter") for word in ("SAFETY", "sensitive", "content_filtered", "guardrail_intervened")],
        ("OTHER", "OTHER"),
        ("a_word_of_tomorrow", "a_word_of_tomorrow"),
    ],
)
def test_finish_reasons_of_other_upstreams_are_translated(payload, meant):
    assert chat_reason(payload, has_tools=False) == meant
    assert standard_reason(payload, is_text=True)[0] == meant
