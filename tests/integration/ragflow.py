"""RAGFlow's reading of an error: which ones make it send the whole request again."""

import re

_CLASSES = (
    ("QUOTA_EXCEEDED", r"quota|capacity|credit|billing|balance|欠费"),
    ("RATE_LIMIT_EXCEEDED", r"rate limit|429|tpm limit|too many requests|requests per minute"),
    ("AUTH_ERROR", r"auth|key|apikey|401|forbidden|permission"),
    ("INVALID_REQUEST", r"invalid|bad request|400|format|malformed|parameter"),
    ("SERVER_ERROR", r"server|503|502|504|500|unavailable"),
    ("TIMEOUT", r"timeout|timed out"),
    ("CONNECTION_ERROR", r"connect|network|unreachable|dns"),
    ("CONTENT_FILTERED", r"filter|content|policy|blocked|safety|inappropriate"),
    ("MODEL_ERROR", r"model|not found|does not exist|not available|max rounds"),
)
"""The words of `_classify_error` in RAGFlow's rag/llm/chat_model.py, searched in this order (v0.20.5 to v0.27)."""

REPLAYED = frozenset({"RATE_LIMIT_EXCEEDED", "SERVER_ERROR"})
"""Errors after which it waits and sends again. After the first event that doubles the answer and runs tools twice."""


def classify(shown: str) -> str:
    """The class of an exception's text: in mid-stream openai-python makes it the error's `message` alone."""
    found = (name for name, words in _CLASSES if re.search(words, shown.lower()))
    return next(found, "GENERIC_ERROR")
