import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatepass.observability.otel_content import input_messages, output_messages

NAMES = (
    "system",
    "messages",
    "input",
    "choices",
    "output",
    "message",
    "delta",
    "content",
    "text",
    "tool_calls",
    "function",
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=12,
)


@example({"messages": 5})
@example({"messages": [{"tool_calls": 5}]})
@example({"choices": 5})
@given(VALUES)
def test_no_body_fails_the_export_of_the_others(value: Any):
    body = json.dumps(value).encode()
    for text in (input_messages(body), output_messages(body), output_messages(b"data: " + body + b"\n\n")):
        assert not text or isinstance(json.loads(text), list)


@pytest.mark.parametrize("text", ["Hi", [{"type": "text", "text": "Hi"}, {"type": "image_url"}, 5]])
def test_the_text_of_a_message_is_kept(text: Any):
    body = json.dumps({"messages": [{"role": "user", "content": text}, 5]}).encode()
    assert json.loads(input_messages(body)) == [{"role": "user", "parts": [{"type": "text", "content": "Hi"}]}]
