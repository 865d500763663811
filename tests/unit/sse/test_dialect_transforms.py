import json

import pytest

from gatepass.sse.chunk import ERROR_BYTES, EnvelopeDefaults
from gatepass.sse.dialect_transforms import (
    FINISH,
    HIDDEN_ERROR,
    LONGEST_REPEATED_CHARS,
    MAX_HELD_CHUNKS,
    ONE_ID,
    REPEATED,
    RagflowStream,
    RagflowTransforms,
)

ORIGIN = EnvelopeDefaults(lambda prefix: f"{prefix}own", 1_700_000_000, "my-bot")
ANSWER = "RAGFlow is an engine for retrieval."
DONE = b"data:[DONE]\n\n"


def chunk(content=None, finish=None, **more):
    """One chunk as v0.26 writes it: no space after the colon, role and nulls in every delta."""
    delta = {"content": content, "role": "assistant", "function_call": None, "tool_calls": None}
    sent = {
        "id": "chatcmpl-2e3b",
        "object": "chat.completion.chunk",
        "created": 1_755_000_000,
        "model": "model",
        "choices": [{"delta": delta, "finish_reason": finish, "index": 0, "logprobs": None}],
        "usage": None,
    }
    return b"data:" + json.dumps(sent | more).encode() + b"\n\n"


def agent_chunk(content, identity):
    """One chunk of an agent up to v0.26.1: another id in each chunk, and neither time nor role."""
    sent = {"id": identity, "object": "chat.completion.chunk", "model": "agent", "created": None}
    return b"data: " + json.dumps(sent | {"choices": [{"index": 0, "delta": {"content": content}}]}).encode() + b"\n\n"


def shaped(*blocks, at_once=False):
    transform = RagflowStream(ORIGIN)
    run = [b"".join(blocks)] if at_once else blocks
    out = b"".join(transform.feed(block) for block in run) + transform.finish()
    events = [part.removeprefix(b"data:").strip() for part in out.split(b"\n\n") if part]
    return [each.decode() if each == b"[DONE]" else json.loads(each) for each in events], transform.adapted


def text_of(events):
    found = [each["choices"][0]["delta"].get("content") for each in events if each != "[DONE]" and each["choices"]]
    return "".join(text for text in found if text)


CITED = ANSWER[:20] + " ##0$$" + ANSWER[20:] + " [ID: 3]"
REVISED = ANSWER + " But note: it does more."
QUOTED = ("The log line reads ", "**ERROR**: disk full", ", which means that", " it is full.")
LONG = "x" * (LONGEST_REPEATED_CHARS + 1)
READ = {
    "the answer repeated": ((ANSWER[:9], ANSWER[9:], ANSWER), ANSWER, True),
    "repeated with citations": ((ANSWER, CITED), ANSWER, True),
    "repeated with new text": ((ANSWER, REVISED), REVISED, True),
    "repeated with citations and new text": (
        (ANSWER, CITED + " And more [ID: 4]."),
        ANSWER + " [ID: 3] And more [ID: 4].",
        True,
    ),
    "repeated and continued": ((ANSWER, ANSWER, " And so on."), ANSWER * 2 + " And so on.", False),
    "a short word": (("ha", "ha"), "haha", False),
    "longer than is held": ((LONG, LONG), LONG * 2, False),
    "a quoted exception": (QUOTED, "".join(QUOTED), False),
    **{
        f"begins like an exception: {parts}": (parts, "".join(parts), False)
        for parts in (("**Bold** ", "words"), ("\n", "**", "Bold**"), ("a ", "**ER", "", "A** b"), ("**ERR",), ("\n",))
    },
}


@pytest.mark.parametrize(("contents", "expected", "is_repeated"), READ.values(), ids=READ)
def test_the_answer_is_read_once_with_one_id_for_every_split(contents, expected, is_repeated):
    for at_once in (False, True):
        events, adapted = shaped(*map(chunk, contents), chunk(None, "stop"), DONE, at_once=at_once)
        assert text_of(events) == expected
        assert adapted == ((ONE_ID, REPEATED) if is_repeated else (ONE_ID,))
        assert {event["id"] for event in events[:-1]} == {"chatcmpl-own"}
        assert [event["choices"][0]["finish_reason"] for event in events[:-1]] == [None] * (len(events) - 2) + ["stop"]


def test_an_agents_stream_gets_one_id_a_time_and_its_finish():
    events, adapted = shaped(agent_chunk("One ", "a"), agent_chunk("two.", "b"), DONE)
    assert [event["id"] for event in events[:-1]] == ["chatcmpl-own"] * 3
    assert {event["created"] for event in events[:-1]} == {1_700_000_000}
    assert events[-2]["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert adapted == (ONE_ID, FINISH)


def test_comments_and_other_events_pass_unchanged():
    transform = RagflowStream(ORIGIN)
    for block in (b": ping\n\n", b"data: {not json\n\n", b'data: {"code":102,"message":"no"}\n\n', b"data: [1]\n\n"):
        assert transform.feed(block) == block
    assert transform.adapted == ()


def completed(content, **more):
    message = {"role": "assistant", "content": content}
    sent = {"id": "chatcmpl-2e3b", "object": "chat.completion", "created": None, "model": "model"}
    return json.dumps(sent | {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]} | more).encode()


def test_a_completion_gets_an_id_and_a_time_of_its_own_and_keeps_the_rest():
    body, adapted = RagflowTransforms().document(completed("Hi", param=None), ORIGIN)
    sent = json.loads(body)
    assert (sent["id"], sent["created"], sent["param"]) == ("chatcmpl-own", 1_700_000_000, None)
    assert adapted == (ONE_ID,)


def test_an_exception_as_an_answer_is_the_error():
    for answer in ("**ERROR**: boom", "\n**ERROR**: boom"):
        body, adapted = RagflowTransforms().document(completed(answer), ORIGIN)
        assert (json.loads(body), adapted) == ({"code": 100, "message": "boom"}, (HIDDEN_ERROR,))
    assert json.loads(RagflowTransforms().document(completed("**ERROR**:"), ORIGIN)[0])["message"]
    events, adapted = shaped(agent_chunk("**ERROR**: Agent not found.", "a"), DONE)
    assert (events[0], adapted[0]) == ({"code": 102, "message": "Agent not found."}, HIDDEN_ERROR)


def test_document_that_is_not_a_completion_is_unchanged():
    for body in (b"{oops", b"[]", b'{"code":102,"message":"no"}'):
        assert RagflowTransforms().document(body, ORIGIN) == (body, ())


def test_exception_after_an_answer_is_an_error_before_stop():
    for blocks in (
        (chunk("**ERROR**: timed out"), chunk(None, "stop"), DONE),
        (chunk("**ERROR**: timed out"), chunk("", reference={}), chunk(None, "stop"), DONE),
        (chunk("\n**ERROR**: timed out", "stop"), DONE),
        (chunk("\n**ERR"), chunk("OR**: timed out"), DONE),
        (chunk("**ERROR**: one"), chunk("**ERROR**: timed out")),
    ):
        events, adapted = shaped(chunk("Paris is "), *blocks)
        assert text_of(events[:1]) == "Paris is "
        assert {"code": 100, "message": "timed out"} in events
        assert HIDDEN_ERROR in adapted


def test_an_exception_in_pieces_at_the_start_is_an_error():
    for sent in (
        ["**ERR", "OR**: timed out"],
        ["\n", "**ERROR**: timed out"],
        ["**ERROR**:", " timed out"],
        ["**ERROR**: timed", "", " ", "out"],
    ):
        pieces = [chunk(each) for each in sent]
        refused, cut = b'data: {"code":102,"message":"no"}\n\n', b"data: {\n\n"
        ends = ((chunk(None, "stop"), DONE), (DONE,), (), (refused,), (cut,))
        for end in ends:
            for at_once in (False, True):
                events, _ = shaped(*pieces, *end, at_once=at_once)
                assert events[0] == {"code": 100, "message": "timed out"}
                assert text_of(each for each in events if "choices" in each) == ""


def test_an_exception_without_an_end_is_an_error_at_the_limit():
    many, long = [chunk("**ERROR**: a")] + [chunk("a")] * MAX_HELD_CHUNKS, [chunk("**ERROR**: " + "a" * ERROR_BYTES)]
    for blocks in (many, long):
        transform = RagflowStream(ORIGIN)
        sent = b"".join(map(transform.feed, blocks[:MAX_HELD_CHUNKS]))
        assert json.loads(sent.removeprefix(b"data:"))["message"].strip("a") == ""


def test_suspects_without_end_are_set_free():
    transform = RagflowStream(ORIGIN)
    out = transform.feed(chunk("a ")) + transform.feed(chunk("**ERR"))
    for _ in range(MAX_HELD_CHUNKS):
        out += transform.feed(chunk(""))
    assert b"**ERR" in out


def test_no_finish_is_added_to_a_stream_without_text():
    """StreamRepair decides: an error event, or `tool_calls` if every call is complete."""
    call = {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}]}
    for blocks in (
        (chunk(choices=[]),),
        (chunk(choices=[{"index": 0, "delta": call}]),),
        (chunk(choices=[{"index": 0, "delta": {"reasoning_content": "hm"}}]),),
        (chunk(""),),
    ):
        events, adapted = shaped(*blocks, DONE)
        assert (len(events), events[-1], FINISH in adapted) == (2, "[DONE]", False)


# --- RAGFlow 1.0 ----------------------------------------------------------------------------------------


def last(finish="stop", tokens=12, **members):
    """The last chunk of 1.0, with its usage and what it hides."""
    sent = json.loads(chunk(None, finish, usage={"completion_tokens": tokens}).removeprefix(b"data:"))
    sent["choices"][0]["delta"] |= members
    return b"data: " + json.dumps(sent).encode() + b"\n\n"


FAILED = "**ERROR**: API request failed with status 503"
ASKED = {"cpn_id": "UserFillUp:0", "tips": "Which year?", "inputs": {"year": {"type": "line"}}}


MARKS = ("**Error**:", "**error:**", "** ERROR **：", "**ERROR:**")


def counted(**members):
    """The usage in a chunk of its own."""
    return b"data: " + json.dumps({"id": "c", "usage": {"completion_tokens": 9}} | members).encode() + b"\n\n"


def of_choice(finish, **members):
    return chunk(choices=[{"index": 0, "delta": {"content": None}, "finish_reason": finish} | members])


def whole(message, finish="stop", tokens=9, **more):
    """A whole reply; `more` are members of the choice."""
    choices = [
        {"index": 0, "message": {"role": "assistant", "content": "", **message}, "finish_reason": finish, **more}
    ]
    return completed(None, choices=choices, usage={"completion_tokens": tokens})


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(
    ("blocks", "code", "begins"),
    [
        ((chunk("", reference=[1]), last()), 100, "The model behind the assistant failed"),
        ((chunk("Paris is "), last(final_content=FAILED, reference=[])), 100, "API request failed"),
        ((chunk("**ERR"), last(final_content="\n**ERROR**: Chat not found")), 102, "Chat not found"),
        ((last("waiting_for_user"),), 409, "The agent waits for the user's input."),
        *(
            (sent, 100, "The model behind the assistant failed")
            for sent in (
                (chunk(""), chunk(None, "stop"), counted()),
                (chunk(None, "stop"), last()),
                (counted(choices=[]), chunk(None, "stop")),
                (of_choice(None, delta={"reasoning_content": "hm"}), last()),
                (of_choice(None, delta={"reasoning": "hm"}), chunk(None, "stop"), counted(choices=[])),
                (last(reasoning_content="hm"),),
            )
        ),
        ((chunk("Hi"), of_choice("stop", final_content=FAILED)), 100, "API request failed"),
        ((of_choice("stop", final_content="**ERROR** boom"),), 100, "boom"),
        ((chunk("Hi"), chunk(None, "stop", final_content=FAILED)), 100, "API request failed"),
        *(((chunk(mark + " boom"), chunk(None, "stop")), 100, "boom") for mark in MARKS),
        *(((last(final_content="\n" + mark + " boom"),), 100, "boom") for mark in MARKS),
        ((chunk("Hi"), chunk("**Err"), chunk("or:** boom"), chunk(None, "stop")), 100, "boom"),
        ((chunk("Hi"), chunk(None, "stop", code=102, message="no authorization")), 102, "no authorization"),
        ((chunk("Hi", code="-1"),), "-1", "RAGFlow returned the code 1."),
    ],
)
def test_the_last_chunk_that_hides_an_error_is_the_error(blocks, code, begins, at_once):
    events, adapted = shaped(*blocks, at_once=at_once)
    events = [event for event in events if event != "[DONE]"]
    assert (events[-1]["code"], events[-1]["message"].startswith(begins)) == (code, True), events[-1]
    assert HIDDEN_ERROR in adapted
    assert [one["finish_reason"] for event in events[:-1] for one in event["choices"] if one["finish_reason"]] == []


@pytest.mark.parametrize(
    "blocks",
    [
        (last(final_content=ANSWER),),
        (of_choice(None, delta={"reasoning_content": "hm"}), last(final_content=ANSWER)),
        (of_choice("stop", delta=None, final_content=ANSWER), counted(choices=[])),
        (chunk(None, "stop", final_content=ANSWER), DONE),
    ],
)
def test_an_answer_in_the_final_text_alone_is_the_content(blocks):
    events, adapted = shaped(*blocks)
    choices = [one for event in events if event != "[DONE]" for one in event["choices"]]
    assert "".join(one["delta"].get("content") or "" for one in choices) == ANSWER
    assert (choices[-1]["finish_reason"], adapted) == ("stop", (ONE_ID,))


@pytest.mark.parametrize("body", [whole({"final_content": ANSWER}), whole({"content": None}, final_content=ANSWER)])
def test_a_whole_answer_in_the_final_text_alone_is_the_content(body):
    found, _ = RagflowTransforms().document(body, ORIGIN)
    assert json.loads(found)["choices"][0]["message"]["content"] == ANSWER


def test_an_agent_that_waits_names_its_session():
    events, _ = shaped(last("waiting_for_user", waiting_for_user=ASKED))
    assert events[0]["message"].endswith("Which year? (session_id chatcmpl-2e3b)")


@pytest.mark.parametrize(
    "blocks",
    [
        (last(tokens=0),),
        (last(final_content=ANSWER),),
        (chunk(ANSWER), last(final_content=ANSWER)),
        (chunk(ANSWER), last("waiting_for_user", waiting_for_user=ASKED)),
        (chunk(None, "stop"),),
        (chunk(None, "stop"), chunk("late")),
        *(
            (of_choice(None, delta=delta), chunk(None, "stop"), counted(choices=[]))
            for delta in (
                {"refusal": "no"},
                {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]},
            )
        ),
        (chunk("**ERROR** is a level"), last()),
        (chunk("**Error handling** in Python"), last()),
        (chunk("**Error**: a null\n\nIt has no value."), last()),
        *(
            (*map(chunk, parts), last())
            for parts in (("**Err", "or:** a null", " **Fix:** b"), ("**Error**: ", *["word "] * 70))
        ),
        (chunk("Hi", code=0, message="ok"), last(code=200)),
    ],
)
def test_another_last_chunk_is_the_end_of_an_answer(blocks):
    events, adapted = shaped(*blocks)
    assert adapted == (ONE_ID,)
    ends = [one["finish_reason"] for event in events for one in event["choices"] if one["finish_reason"]]
    assert ends in (["stop"], ["waiting_for_user"])


@pytest.mark.parametrize(
    ("body", "code", "begins"),
    [
        *((whole(one), 100, "The model behind the assistant failed") for one in ({}, {"reasoning_content": "hm"})),
        (whole({"content": None, "reference": [{"id": 1}]}), 100, "The model behind the assistant failed"),
        (whole({"content": "Hi", "final_content": FAILED}), 100, "API request failed"),
        (whole({}, final_content="**Error** boom"), 100, "boom"),
        (completed("", final_content="**ERROR**: boom"), 100, "boom"),
        (completed("Hi", code="-1"), "-1", "RAGFlow returned the code 1."),
    ],
)
def test_a_whole_reply_that_hides_an_error_is_the_error(body, code, begins):
    found, adapted = RagflowTransforms().document(body, ORIGIN)
    error = json.loads(found)
    assert (error["code"], error["message"].startswith(begins), adapted) == (code, True, (HIDDEN_ERROR,)), error


@pytest.mark.parametrize(
    "body",
    [
        whole({}, tokens=0),
        whole({}, "length"),
        whole({"content": None, "tool_calls": [{"id": "c"}]}, "tool_calls"),
        whole({"content": "Which year?", "waiting_for_user": ASKED}, "waiting_for_user"),
        whole({"content": "The log says **ERROR**: disk full"}),
        whole({"content": "**Error**: a null\n\n**Fix**: b", "final_content": "**Error**: a null\n\n**Fix**: b"}),
        completed("Hi", code=0, message="ok"),
        completed("Hi", code="000000"),
        completed("Hi", code=200),
    ],
)
def test_another_whole_reply_is_an_answer(body):
    assert RagflowTransforms().document(body, ORIGIN)[1] == (ONE_ID,)


def test_an_error_beside_a_text_or_alone_is_the_error():
    inner = {"message": "boom", "type": "x"}
    events, _ = shaped(chunk("Hi"), of_choice("error", delta={"content": None, "error": inner}))
    assert events[-1] == {"error": inner}
    events, _ = shaped(of_choice("error", delta={"content": "**ERROR**: Agent not found.", "error": inner}))
    assert events == [{"code": 102, "message": "Agent not found."}]
    assert json.loads(RagflowTransforms().document(whole({"error": inner}), ORIGIN)[0]) == {"error": inner}
