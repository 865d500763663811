"""The names of tool calls: what kind of piece a later name is, and when the first entry of a call is sent."""

import json
from typing import Any

import pytest

from gatepass.sse import tool_calls
from gatepass.sse.aggregate import CompletionAggregator
from gatepass.sse.asked import MOST_TOOL_BYTES, MOST_TOOLS, Asked
from gatepass.sse.choice_repair import RepairOptions
from gatepass.sse.chunk import AnswerFault, EnvelopeDefaults, StreamSource
from gatepass.sse.repair import StreamRepair
from gatepass.sse.tool_calls import MOST_WAITING_CHARS, ArgumentBuffer, ToolRepair
from gatepass.sse.whole_reply import read_good, repair_reply
from tests.memory import traced_memory
from tests.unit.sse.documents import origin
from tests.unit.sse.replies import chat, choice
from tests.unit.sse.streams import DONE, LIMIT_BYTES, chunk, code, data, new_stream

A, B = '{"a":1}', '{"b":2}'
Sent = list[tuple[int, Any, Any, Any]]
"""The number, the id, the name and the arguments of each entry."""


def asked(*names: str) -> EnvelopeDefaults:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    made = origin()
    return EnvelopeDefaults(made.new_id, made.created_s, made.model, Asked(json.dumps({"tools": tools}).encode()))


def e(name: Any = None, arguments: Any = None, identity: Any = None, index: Any = 0) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    entry = {"index": index, "id": identity, "function": function}
    return {key: value for key, value in entry.items() if value is not None}


def sent_of(tools: str, *entries: Any) -> tuple[list[Sent], list[str]]:
    """What is sent with each delta and at the end, and the names of the repairs. A delta is an entry or several."""
    repair, notes, sent = ToolRepair(asked(*tools.split()), ArgumentBuffer(), 0), list[str](), list[Any]()
    for one in entries:
        repair.repair(delta := list(one) if isinstance(one, list) else [one], notes.append)
        sent.append(delta)
    sent.append(repair.take_rest(notes.append))
    read = [[_read(entry) for entry in delta] for delta in sent]
    return read if read[-1] else read[:-1], list(dict.fromkeys(notes))


def _read(entry: dict[str, Any]) -> tuple[int, Any, Any, Any]:
    function = entry.get("function", {})
    assert ("type" in entry) >= ("id" in entry)
    return entry["index"], entry.get("id"), function.get("name"), function.get("arguments")


MADE = [f"call_{number:024x}" for number in range(1, 4)]


# --- a later name at a call ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tools", "entries", "expected"),
    [
        pytest.param(
            "f g",
            [e("f", A), e("g", B)],
            [[(0, MADE[0], "f", A)], [(1, MADE[1], "g", B)]],
            id="behind whole arguments: the next call",
        ),
        pytest.param(
            "f", [e("f", A, "c"), e("f", B, "d")], [[(0, "c", "f", A)], [(1, "d", "f", B)]], id="with a new id likewise"
        ),
        pytest.param(
            "f f_more",
            [e("f", A, "c"), e("_more", "{}")],
            [[(0, "c", "f", A)], [(1, MADE[0], "_more", "{}")]],
            id="also a name that would make the first one that of a tool",
        ),
        pytest.param(
            "f", [e("f", '{"a"', "c"), e("f", ":1}", "c")], [[(0, "c", "f", '{"a"')], [(0, None, None, ":1}")]],
            id="a known id: never a new call, before whole arguments",
        ),
        pytest.param(
            "f g", [e("f", A, "c"), e("g", "", "c", 1)], [[(0, "c", "f", A)], [(0, None, None, "")]],
            id="and behind them, at any index",
        ),
        pytest.param(
            "search", [e("sea", "", "c"), e("rch", A)], [[], [(0, "c", "search", A)]], id="a piece that makes a tool"
        ),
        pytest.param(
            "search", [e("s"), e("ea"), e("rch", A)], [[], [], [(0, MADE[0], "search", A)]], id="one that begins a tool"
        ),
        pytest.param(
            "gogo", [e("go", "", "c"), e("go", A)], [[], [(0, "c", "gogo", A)]], id="a piece before a repetition"
        ),
        pytest.param(
            "f", [e("f", "", "c"), e("f", ""), e(None, A)],
            [[(0, "c", "f", "")], [(0, None, None, "")], [(0, None, None, A)]],
            id="a repetition",
        ),
        pytest.param(
            "", [e("x", '{"a"', "c"), e("x", ":1}")], [[(0, "c", "x", '{"a"')], [(0, None, None, ":1}")]],
            id="a repetition of no tool, behind a part of the arguments",
        ),
        pytest.param(
            "search", [e("sea", "", "c"), e("search", ""), e(None, A)],
            [[], [(0, "c", "search", "")], [(0, None, None, A)]],
            id="a snapshot that is a tool",
        ),
        pytest.param(
            "find", [e("f"), e("fi"), e("find", A)], [[], [], [(0, MADE[0], "find", A)]], id="one that begins a tool "
        ),
        pytest.param(
            "f g", [e("f", '{"a":', "c"), e("g", B)], [[(0, "c", "f", '{"a":')], [(1, MADE[0], "g", B)]],
            id="behind a part of the arguments anything else: the next call",
        ),
        pytest.param(
            "", [e("f", '{"a":', "c"), e("g", B)], [[(0, "c", "f", '{"a":')], [(1, MADE[0], "g", B)]],
            id="also without tools in the request",
        ),
        pytest.param(
            "f g", [e("f", "", "c"), e("g", B)], [[(0, "c", "f", "")], [(1, MADE[0], "g", B)]],
            id="another tool, without arguments: the next call",
        ),
        pytest.param(
            "f", [e("made", "", "c"), e("_up", ""), e(None, A)],
            [[(0, "c", "made", "")], [(0, None, "_up", "")], [(0, None, None, A)]],
            id="no tool: a piece as it is",
        ),
        pytest.param(
            "", [e("sea", "", "c"), e("rch", A)], [[(0, "c", "sea", "")], [(0, None, "rch", A)]],
            id="no tools in the request: a piece as it is",
        ),
        pytest.param(
            "f", [e("f<|channel|>", "", "c"), e("commentary", ""), e("<|x|>", A)],
            [[(0, "c", "f", "")], [(0, None, None, "")], [(0, None, None, A)]],
            id="the rest of marks",
        ),
        pytest.param(
            "s s_web", [e("s<|channel|>json", A, "c")], [[(0, "c", "s", A)]], id="a tool with marks can grow no more"
        ),
        pytest.param(
            "f", [e("x<|channel|>json", A, "c")], [[(0, "c", "x<|channel|>json", A)]], id="marks behind no tool"
        ),
    ],
)  # fmt: skip
def test_a_later_name_is_one_kind_of_piece(tools, entries, expected):
    assert sent_of(tools, *entries)[0] == expected


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([e("f<|x|>json", ""), e("g", A)], [[], [(0, MADE[0], "f", ""), (1, MADE[1], "g", A)]]),
        ([e("f<|x|>json", '{"a":', "c"), e("g<|x|>json", B)], [[(0, "c", "f", '{"a":')], [(1, MADE[0], "g", B)]]),
        (
            [e("f<|x|>json", '{"a":', "c"), e("f<|x|>json", "1}")],
            [[(0, "c", "f", '{"a":')], [(0, None, None, "1}")]],
        ),
    ],
    ids=["another tool", "with marks, behind a part of the arguments", "a repetition with marks"],
)
def test_the_marks_of_one_call_do_not_hide_the_next_one(entries, expected):
    assert sent_of("f g", *entries)[0] == expected


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        ([e("f", "")], [[(0, None, None, "")]]),
        ([e("f", ""), e("f")], [[(0, None, None, "")], [(0, None, None, None)]]),
        ([e("f", ""), e(None, B)], [[(0, None, None, "")], [(1, MADE[0], "f", B)]]),
        ([e("f", ""), e("f", B)], [[(0, None, None, "")], [(1, MADE[0], "f", B)]]),
        ([e("f", "", "d")], [[(1, "d", "f", "")]]),
        ([e("f", "", index=1)], [[], [(1, MADE[0], "f", "")]]),
    ],
    ids=["alone", "twice", "and then arguments", "and then the name with them", "with a new id", "at a new index"],
)
def test_a_name_that_comes_again_behind_whole_arguments_is_a_call_only_with_arguments_of_its_own(later, expected):
    assert sent_of("f", e("f", A, "c"), *later)[0] == [[(0, "c", "f", A)], *expected]


@pytest.mark.parametrize("other", [["x"], {"a": 1}, True, 1.5])
@pytest.mark.parametrize("place", ["id", "type", "name"])
def test_an_id_a_type_and_a_name_that_are_no_text_are_absent(place, other):
    first, later = e("f", "", "c") | {"type": "function"}, e(None, A)
    for entry in (first, later):
        (entry["function"] if place == "name" else entry)[place] = other
    [*sent], notes = sent_of("f", first, later)
    entries = [entry for delta in sent for entry in delta]
    assert "".join(text or "" for *_, text in entries) == A
    assert entries[0][1:3] == (MADE[0] if place == "id" else "c", None if place == "name" else "f")
    assert f"repair=tool-{place}" in notes


@pytest.mark.parametrize("count", [MOST_TOOLS, MOST_TOOLS + 1])
def test_more_tools_than_any_request_has_are_not_read(count):
    request = json.dumps({"tools": [{"type": "function", "function": {"name": f"f{one}"}} for one in range(count)]})
    assert len(Asked(request.encode()).tools) == (count if count <= MOST_TOOLS else 0)
    long = {"type": "function", "function": {"name": "f", "parameters": {"a": "x" * MOST_TOOL_BYTES}}}
    assert Asked(json.dumps({"tools": [long]}).encode()).tools == {}


@pytest.mark.parametrize("choice", ["none", {"type": "none"}])
@pytest.mark.parametrize("padding", ["", "x" * 8192], ids=["small", "large"])
def test_no_call_is_expected_of_a_request_that_forbids_it(choice, padding):
    tool = {"type": "function", "function": {"name": "f", "description": padding}}
    for given, expected in ((choice, False), ("auto", True), ({"type": "function"}, True), (None, True)):
        assert Asked(json.dumps({"tools": [tool], "tool_choice": given}).encode()).expects_call is expected


# --- when the first entry is sent ----------------------------------------------------------------


def test_the_first_entry_of_nearly_every_call_is_sent_at_once_as_it_is():
    given = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    repair, notes = ToolRepair(asked("f", "g"), ArgumentBuffer(), 0), list[str]()
    repair.repair(delta := [given], notes.append)
    assert (delta[0] is given, delta, notes) == (True, [json.loads(json.dumps(given))], [])


@pytest.mark.parametrize(
    ("tools", "entries", "expected"),
    [
        pytest.param("s s_web", [e("s", A, "c")], [[(0, "c", "s", A)]], id="a tool that begins another"),
        pytest.param(
            "s s_web", [e("s", "", "c"), e(None, A)], [[], [(0, "c", "s", A)]], id="while none, it waits for the next"
        ),
        pytest.param("s s_web", [e("s", "", "c")], [[], [(0, "c", "s", "")]], id="or the end"),
        pytest.param(
            "search", [e("sea", '{"a"', "c"), e(None, ":"), e("rch", "1}")], [[], [], [(0, "c", "search", A)]],
            id="the beginning of a tool waits with its arguments",
        ),
        pytest.param("search", [e("sea", A, "c")], [[], [(0, "c", "sea", A)]], id="to the end"),
        pytest.param("f", [e("f"), e(None, A, "c")], [[], [(0, "c", "f", A)]], id="no id yet: waits"),
        pytest.param("f", [e("f", A)], [[(0, MADE[0], "f", A)]], id="unless arguments come"),
        pytest.param(
            "f g", [e("f"), e("g", B, "d", 1)], [[], [(0, MADE[0], "f", None), (1, "d", "g", B)]],
            id="or a later call is ready",
        ),
        pytest.param("f", [e(None, "", "c"), e("f", A)], [[], [(0, "c", "f", A)]], id="no name yet: waits"),
        pytest.param("f", [e(None, A, "c"), e("f")], [[], [(0, "c", "f", A)]], id="also with arguments"),
        pytest.param(
            "f go", [e(None, "", "c"), e("f", B, "d", 1), e("g"), e("o", A)],
            [[], [(0, "c", None, ""), (1, "d", "f", B)], [], [(0, None, "go", A)]],
            id="unless a later call is ready, and then its name is sent once all the same",
        ),
        pytest.param("f", [e("made_up", "", "c")], [[(0, "c", "made_up", "")]], id="unknown: at once"),
        pytest.param(
            "s s_web g", [e("s", "", "c"), e("g", B, "d", 1), e("_web", A)],
            [[], [], [(0, "c", "s_web", A), (1, "d", "g", B)]],
            id="calls are sent in the order in which they began",
        ),
        pytest.param(
            "g search", [e("g", "", "c"), e("sea", "", "d", 1), e(None, A), e("rch", B, index=1)],
            [[(0, "c", "g", "")], [], [(0, None, None, A)], [(1, "d", "search", B)]],
            id="an earlier call goes on meanwhile",
        ),
    ],
)  # fmt: skip
def test_the_first_entry_of_a_call_is_sent_when_its_name_can_grow_no_more(tools, entries, expected):
    assert sent_of(tools, *entries)[0] == expected


def test_absent_members_are_none():
    first = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    for empty in (None, ""):
        later = {"index": 0, "id": empty, "type": empty, "function": {"name": empty, "arguments": A}}
        repair, notes = ToolRepair(asked("f"), ArgumentBuffer(), 0), list[str]()
        repair.repair([dict(first)], notes.append)
        assert repair.repair(delta := [None, later, "x"], notes.append) is False
        assert delta == [{"index": 0, "function": {"arguments": A}}]
        assert set(notes) == {tool_calls.TOOL_ID, tool_calls.TOOL_TYPE, tool_calls.TOOL_NAME} | {
            tool_calls.TOOL_ARGUMENTS
        }


def test_what_waits_is_joined_with_its_other_members():
    first = {"index": 0, "id": "c", "function": {"name": "sea"}, "extra_content": {"signature": "x"}}
    repair = ToolRepair(asked("search"), ArgumentBuffer(), 0)
    repair.repair([first], lambda _: None)
    repair.repair(delta := [{"index": 0, "id": None, "function": {"name": "rch", "arguments": A}, "more": 1}], print)
    assert delta == [{**first, "function": {"name": "search", "arguments": A}, "type": "function", "more": 1}]


@pytest.mark.parametrize("more", [{}, {"extra_content": {"signature": "x" * 1000}}], ids=["arguments", "other members"])
def test_what_waits_is_bounded(more):
    repair, arguments = ToolRepair(asked("search"), held := ArgumentBuffer(), 0), '{"a": "'
    repair.repair([{**e("sea", arguments, "c"), **more}], lambda _: None)
    with traced_memory() as memory:
        count, delta = 0, list[Any]()
        while not delta:
            repair.repair(delta := [{**e(None, "x" * 8), **more}], lambda _: None)
            count += 1
    assert count * (1000 if more else 8) <= MOST_WAITING_CHARS
    assert memory.kept_bytes < 4 * MOST_WAITING_CHARS
    assert delta[0]["function"] == {"name": "sea", "arguments": arguments + "x" * 8 * count}
    assert held.waiting_chars == 0


# --- the whole stream ----------------------------------------------------------------------------

WAYS = ("relayed", "aggregated")


def read(way: str, defaults: EnvelopeDefaults, *deltas: Any, finish: str | None = "tool_calls") -> tuple[Any, Any]:
    """Return the calls or the function that a client reads, and the code of the failure."""
    blocks = [data(chunk(delta)) for delta in deltas] + [data(chunk({}, finish))] * (finish is not None) + [DONE]
    if way == "aggregated":
        one = CompletionAggregator(StreamSource("chat", LIMIT_BYTES, lambda _: None), LIMIT_BYTES, defaults)
        for block in blocks:
            one.feed(block)
        if one.failure is not None:
            return one.failure.message, one.failure.code
        message = json.loads(one.finish())["choices"][0]["message"]
        functions = [call["function"] for call in message.get("tool_calls", ())]
        return functions or message.get("function_call"), None
    stream = new_stream(repair=StreamRepair(RepairOptions(), defaults))
    calls = dict[Any, dict[str, str]]()
    for event in b"".join(map(stream.feed, blocks)).split(b"\n\n")[:-1]:
        if event != b"data: [DONE]":
            for delta in (one["delta"] for one in json.loads(event[6:])["choices"]):
                entries = [(None, delta["function_call"])] if "function_call" in delta else []
                entries += [(one["index"], one["function"]) for one in delta.get("tool_calls", ())]
                for index, function in entries:
                    known = calls.setdefault(index, {"name": "", "arguments": ""})
                    for name, text in function.items():
                        known[name] += text
    if stream.failure is not None:
        return stream.failure.message, code(stream)
    return calls[None] if None in calls else [*calls.values()], None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("finish", ["tool_calls", "stop", None])
def test_the_finish_reason_or_the_end_sends_the_rest(way, finish):
    made = read(way, asked("search"), {"tool_calls": [e("sea", A, "c")]}, finish=finish)
    assert made == ([{"name": "sea", "arguments": A}], None)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("tools", "parts", "name"),
    [
        ("search", ["sea", "rch"], "search"),
        ("search", ["sea", "search"], "search"),
        ("search", ["search", "search"], "search"),
        ("search", ["search<|channel|>", "json"], "search"),
        ("", ["sea", "rch"], "search"),
        ("search", ["search", None, ""], "search"),
    ],
)
def test_the_name_of_a_function_call_is_read_likewise(way, tools, parts, name):
    functions = [{"name": part, "arguments": ""} for part in parts] + [{"arguments": A}]
    made = read(way, asked(*tools.split()), *({"function_call": one} for one in functions), finish="function_call")
    assert made == ({"name": name, "arguments": A}, None)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("more", [B, '"x"', " 2", "true", "[", "-1"])
def test_several_values_in_the_arguments_of_one_call_are_no_cut_call(way, more):
    deltas = [{"tool_calls": [e("f", A, "c")]}, {"tool_calls": [e(None, more)]}]
    message, failure = read(way, asked("f"), *deltas)
    assert (failure, "several JSON values" in message) == ("upstream_invalid", True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("finish", ["tool_calls", "function_call", "tool_use"])
def test_the_finish_reason_of_calls_without_one_is_no_answer(way, finish):
    message, failure = read(way, asked("f"), {"content": "I look."}, finish=finish)
    assert (failure, "`tool_calls`" in message) == ("upstream_invalid", True)
    assert read(way, asked(), {"content": "I look."}, finish=finish)[1] is None
    later = read(way, asked("f"), {"content": "I look."}, {"tool_calls": [e("f", A, "c")]}, finish=finish)
    assert later == ([{"name": "f", "arguments": A}], None)


@pytest.mark.parametrize("way", WAYS)
def test_a_call_after_the_finish_reason_is_sent_too(way):
    stream = [{"tool_calls": [e("f", A, "c")]}, {"tool_calls": [e("f", B, "d", 1)]}]
    blocks = [data(chunk(stream[0])), data(chunk({}, "tool_calls")), data(chunk(stream[1], "tool_calls"))]
    one = CompletionAggregator(StreamSource("chat", LIMIT_BYTES, lambda _: None), LIMIT_BYTES, asked("f"))
    relay = new_stream(repair=StreamRepair(RepairOptions(), asked("f")))
    for block in [*blocks, DONE]:
        out = one.feed(block) if way == "aggregated" else relay.feed(block)
        assert (B.replace('"', '\\"').encode() in out) is (block is DONE and way == "relayed")
    if way == "aggregated":
        calls = json.loads(one.finish())["choices"][0]["message"]["tool_calls"]
        assert [call["function"]["arguments"] for call in calls] == [A, B]


def test_an_event_with_a_name_alone_keeps_its_bytes_if_arguments_follow():
    opener, piece = data(chunk({"tool_calls": [e("s", "", "c") | {"type": "function"}]})), e(None, A)
    for later in (data(chunk({"tool_calls": [piece]})), data(chunk({}, "tool_calls"))):
        stream = new_stream(repair=StreamRepair(RepairOptions(), asked("s", "s_web")))
        assert stream.feed(opener) == b""
        assert stream.feed(later).startswith(opener)
    late = new_stream(repair=StreamRepair(RepairOptions(), asked("s", "s_web")))
    sent = late.feed(data(chunk({"tool_calls": [e("s", "")]}))) + late.feed(
        data(chunk({"tool_calls": [e(None, A, "c")]}))
    )
    assert b'"id":"c"' in sent


@pytest.mark.parametrize(("tools", "name"), [("s s_web", "s"), ("s_web", "s"), ("f", "")])
def test_an_event_of_which_nothing_is_left_but_a_call_that_waits_is_not_sent(tools, name):
    stream = new_stream(repair=StreamRepair(RepairOptions(), asked(*tools.split())))
    waits = {"tool_calls": [e(name, "", "c") | {"type": "function"}]}
    piece, more = {"tool_calls": [e("_web" if tools != "f" else "f")]}, {"tool_calls": [e(None, A)]}
    first = {**json.loads(data(chunk(waits))[6:]), "filter": [1]}  # a member that may not be lost
    sent = [stream.feed(data(one)) for one in (first, chunk(piece), chunk(more))]
    read = [json.loads(event[6:]) for event in b"".join(sent).split(b"\n\n")[:-1]]
    assert all(one["choices"][0]["delta"] for one in read)
    assert [one.get("filter") for one in read] == [[1], *[None] * (len(read) - 1)]
    names = [call["function"].get("name") for one in read for call in one["choices"][0]["delta"]["tool_calls"]]
    assert [name for name in names if name] == ["f" if tools == "f" else "s_web"]


def test_a_whole_reply_is_read_likewise():
    def whole(finish: str, **message: Any) -> bytes:
        return json.dumps(chat(choice(finish=finish, **message))).encode()

    def call(name: str, identity: str = "c", arguments: str = A) -> dict[str, Any]:
        return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}

    defaults = asked("f", "f_more")
    marked = whole("tool_calls", content=None, tool_calls=[call("f<|channel|>json"), call("f", "d")])
    assert read_good(marked) is None
    body, names = repair_reply(marked, lambda: defaults)
    calls = json.loads(body)["choices"][0]["message"]["tool_calls"]
    assert ([one["function"]["name"] for one in calls], names) == (["f", "f"], ("repair=tool-name",))
    several = whole("tool_calls", content=None, tool_calls=[call("f", arguments=A + B)])
    for given, words in ((several, "several JSON values"), (whole("tool_calls", content="I look."), "`tool_calls`")):
        assert read_good(given) is None
        with pytest.raises(AnswerFault) as fault:
            repair_reply(given, lambda: defaults)
        assert words in fault.value.error_of("chat").message
    assert repair_reply(whole("tool_calls", content="a"), origin) == (whole("tool_calls", content="a"), ())
