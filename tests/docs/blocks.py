"""The code blocks of a page."""

import re


def blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of `language`, a pattern, in a page or in a part of one."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
