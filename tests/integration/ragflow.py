"""RAGFlow's reading of an error: which ones make it send the whole request again."""

import re

_CLASSES = (
    ("QUOTA", r"quota|capacity|credit|billing|balance|欠费"),
    ("RATE_LIMIT", r"rate limit|429|tpm limit|too many requests|requests per minute"),
    ("AUTH", r"auth|key|apikey|401|forbidden|permission"),
    ("INVALID", r"invalid|bad request|400|format|malformed|parameter"),
    ("SERVER", r"server|503|502|504|500|unavailable"),
)
"""The words of `_classify_error` in RAGFlow's rag/llm/chat_model.py, searched in this order (v0.20.5 to v0.27)."""

REPLAYED = frozenset({"RATE_LIMIT", "SERVER"})
"""Errors after which it waits and sends again. After the first event that doubles the answer and runs tools twice."""


def classify(shown: str) -> str:
    """The class of an exception's text: in mid-stream openai-python makes it the error's `message` alone."""
    found = (name for name, words in _CLASSES if re.search(words, shown.lower()))
    return next(found, "OTHER")
