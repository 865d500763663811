"""A text and ten questions about it: Python's language reference from `pydoc_data`.

This module contains only the few words that identify a paragraph.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pydoc_data.topics import topics

TOPICS = (
    "comparisons", "debugger", "dict", "exceptions", "execmodel", "formatstrings", "identifiers", "import", "in",
    "integers", "lambda", "lists", "numbers", "objects", "raise", "string-methods", "strings", "try",
    "typesmapping", "typesseq", "with",
)  # fmt: skip
LEAST_CHARACTERS, MOST_CHARACTERS = 150, 800  # MiniLM reads 512 tokens at most


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    mark: str
    """Words that only the right paragraph contains."""


QUESTIONS = (
    Question("Why is NaN not equal to itself?", "float('NaN')"),
    Question("When are objects freed by the garbage collector?", "never explicitly destroyed"),
    Question("How do I split a text into its lines?", "breaking at line boundaries"),
    Question("Can I chain comparisons such as a < b < c?", "chained arbitrarily"),
    Question("How do I make a breakpoint stop only when an expression is true?", "made unconditional"),
    Question("What happens in the debugger when I press Ctrl-C?", "SIGINT"),
    Question("What does a with statement do with a context manager?", "used to wrap the execution"),
    Question("Can underscores be written inside numbers to group digits?", "Underscores are ignored"),
    Question("Which characters count as white space?", "*whitespace*"),
    Question("How is a list made from a comprehension?", "A list display"),
)


def paragraphs() -> list[str]:
    """Return the prose paragraphs in order, each once."""
    found: dict[str, None] = {}
    for topic in TOPICS:
        for block in re.split(r"\n\s*\n", topics[topic]):
            text = " ".join(block.split())
            if LEAST_CHARACTERS <= len(text) <= MOST_CHARACTERS and text[0].isupper() and text.endswith("."):
                found[text] = None
    return list(found)
