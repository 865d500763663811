"""The whole table in the order of docs/quirks.md. Row 0 is an upstream without quirks."""

from tests.e2e.quirks import buffered_replies, error_replies, misleading_replies, rejections, streams, vectors
from tests.e2e.quirks.replies import USAGE, compliant
from tests.e2e.quirks.row import EMBED, STREAM, Answer, Row, Vectors
from tests.e2e.quirks.tools import TOOL_ANSWER, TOOLS

CONTROL = (
    Row(0, "standard", "an upstream without a quirk", compliant),
    Row(0, "standard-tools", "the same with tool calls", compliant, TOOL_ANSWER, body=TOOLS),
    Row(0, "standard-usage", "the same with usage", compliant, Answer(total_tokens=USAGE["total_tokens"]),
        modes=STREAM, body={"stream_options": {"include_usage": True}}),
    Row(0, "standard-vectors", "the same with vectors", vectors.embeddings, Vectors(), modes=EMBED, texts=40),
)  # fmt: skip
_ALL = (
    *CONTROL,
    *misleading_replies.ROWS,
    *rejections.ROWS,
    *streams.ROWS,
    *buffered_replies.ROWS,
    *vectors.ROWS,
    *error_replies.ROWS,
)
ROWS = tuple(sorted(_ALL, key=lambda row: row.quirk))
