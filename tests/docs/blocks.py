"""The code blocks of a page."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^(?P<indent> *)```(?P<info>[^\n]*)\n(?P<text>.*?)^(?P=indent)``` *$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    page: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page} {self.language or 'no language'}"


def blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of `language`, a pattern, in a page or in a part of one."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def blocks_of(page: Path, root: Path = ROOT) -> Iterator[Block]:
    """Yield each code block of a page in order, those in lists without their indent."""
    for found in BLOCK.finditer(page.read_text()):
        text = re.sub(rf"^{found['indent']}", "", found["text"], flags=re.MULTILINE)
        yield Block(str(page.relative_to(root)), found["info"].strip(), text)


def commands_of(text: str) -> list[str]:
    """The lines of a shell block, with continued lines joined and without the prompt."""
    return [line.strip().removeprefix("$ ") for line in re.sub(r"\\\n\s*", "", text).splitlines()]


def typed(text: str) -> list[str]:
    """Of a block with a terminal's output, the lines that a user types."""
    joined = re.sub(r"\\\n\s*", "", text)
    return [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]
