"""Responses, and pieces of them: shared by the tests of their streams."""

from typing import Any

from hypothesis import strategies as st

Object = dict[str, Any]

USAGE = {
    "input_tokens": 11,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 3},
    "total_tokens": 18,
}


def response(*output: Any, **more: Any) -> Object:
    return {
        "id": "resp_7",
        "object": "response",
        "created_at": 7.0,
        "status": "completed",
        "model": "m",
        "output": list(output),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": USAGE,
        **more,
    }


def part(text: str = "Hi", **more: Any) -> Object:
    return {"type": "output_text", "text": text, "annotations": [], **more}


def message(*parts: Any, **more: Any) -> Object:
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [*parts], **more}


def call(**more: Any) -> Object:
    payload = {"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "call_1", "name": "add"}
    return {**payload, "arguments": '{"a":1}', **more}


def reasoning(*texts: str, **more: Any) -> Object:
    summary = [{"type": "summary_text", "text": text} for text in texts]
    return {"id": "rs_1", "type": "reasoning", "summary": summary, **more}


# --- anything that a response may be ------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
IDS = st.text("abc123", min_size=1, max_size=9)
PARTS = st.builds(part, TEXTS) | st.builds(lambda text: {"type": "refusal", "refusal": text}, TEXTS)
ITEMS = st.one_of(
    st.builds(lambda parts, name: message(*parts, id=f"msg_{name}"), st.lists(PARTS, max_size=3), IDS),
    st.builds(lambda text, name: call(arguments=text, id=f"fc_{name}", call_id=f"call_{name}"), TEXTS, IDS),
    st.builds(lambda texts, name: reasoning(*texts, id=f"rs_{name}"), st.lists(TEXTS, max_size=2), IDS),
    st.builds(
        lambda texts, name: reasoning(
            id=f"rs_{name}", content=[{"type": "reasoning_text", "text": text} for text in texts]
        ),
        st.lists(TEXTS, max_size=2),
        IDS,
    ),
    st.builds(
        lambda text, name: call(id=f"ctc_{name}", type="custom_tool_call", call_id=f"call_c{name}", input=text),
        TEXTS,
        IDS,
    ),
)
RESPONSES = st.builds(
    lambda items, status: response(*items, status=status),
    st.lists(ITEMS, max_size=4, unique_by=lambda item: str(item["id"])),
    st.sampled_from(["completed", "incomplete", "failed", "cancelled"]),
)
_SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "x", "message", "output_text"])
ANYTHING = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "id", "content", "summary", "text", "arguments", "call_id", "annotations", "status"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
KINDS = st.sampled_from(["message", "reasoning", "function_call", "mcp_call", "custom_tool_call", "other", "", 5, []])
ODD_ITEMS = st.builds(
    lambda kind, more: {"type": kind, **more} if isinstance(more, dict) else more, KINDS, ANYTHING
)  # fmt: skip
ODD_RESPONSES = st.dictionaries(
    st.sampled_from(["id", "created_at", "model", "status", "error", "incomplete_details", "tools", "x"]),
    ANYTHING,
    max_size=4,
).flatmap(lambda top: (st.lists(ODD_ITEMS, max_size=3) | ANYTHING).map(lambda output: {**top, "output": output}))
