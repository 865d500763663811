"""A request that is answered by tool calls, and a conversation that contains tool calls."""

from tests.e2e.quirks.replies import CALLS
from tests.e2e.quirks.row import Answer

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = {
    "tools": [
        {"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": PARAMETERS}}
    ]
}
TOOL_ANSWER = Answer("", CALLS, "tool_calls")
TOOL_QUESTION = {"role": "user", "content": "How is the weather in Paris?"}
CALL = {"id": "call_abc-1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
TOOL_RESULT = {"role": "tool", "tool_call_id": "call_abc-1", "content": "fine"}
CONVERSATION = (TOOL_QUESTION, {"role": "assistant", "content": None, "tool_calls": [CALL]}, TOOL_RESULT)
