"""What the scripted model of upstream.py says and calls next."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]
COMMANDS = ("cat first.txt", "cat second.txt")
ECHOED = ("the first word is amber", "the second word is basalt")
LOST = "Output: (empty)"
"""Qwen Code reports so that a command printed nothing. On a loaded machine it loses what a short command printed: a
model makes the call again."""
MAX_CALLS = 5
SLOW_CALL = "call_2_of_the_task"
FOUND = re.compile(r"the (?:first|second|third) word is (\w+)")
SHELLS: Mapping[str, Callable[[str], Document]] = {
    "Bash": lambda command: {"command": command, "description": "Print a file"},
    "bash": lambda command: {"command": command, "description": "Print a file"},
    "exec_command": lambda command: {"cmd": command},
    "shell_command": lambda command: {"command": command},
    "shell": lambda command: {"command": ["bash", "-c", command]},
    "run_shell_command": lambda command: {"command": command, "is_background": False},
    "run_commands": lambda command: {"commands": [command]},
    "execute_command": lambda command: {"command": command, "requires_approval": False},
}
"""The arguments of each host's tool that runs a command, by its name."""
Call = tuple[str, Document]
"""The name and the arguments."""


def _printed(tool: str, *files: str) -> tuple[Call, ...]:
    return tuple((tool, SHELLS[tool](f"cat {file}")) for file in files)


def _patch(*lines: str) -> Call:
    """Return a call of the custom tool of Codex; its function takes the text as `input`."""
    return "apply_patch", {"input": "\n".join(("*** Begin Patch", *lines, "*** End Patch", ""))}


EDITS: Mapping[str, tuple[tuple[Call, ...], ...]] = {
    "Bash": (
        (("Read", {"file_path": "first.txt"}), ("Read", {"file_path": "second.txt"})),
        (
            ("Edit", {"file_path": "first.txt", "old_string": "amber", "new_string": "topaz"}),
            ("Edit", {"file_path": "second.txt", "old_string": "basalt", "new_string": "granite"}),
            ("Write", {"file_path": "third.txt", "content": "the third word is copper\n"}),
        ),
        (("Bash", SHELLS["Bash"]("ls")), ("Read", {"file_path": "third.txt"})),
        _printed("Bash", "first.txt", "second.txt", "third.txt"),
    ),
    "exec_command": (
        _printed("exec_command", "first.txt", "second.txt"),
        (
            _patch("*** Update File: first.txt", "@@", "-the first word is amber", "+the first word is topaz"),
            _patch("*** Update File: second.txt", "@@", "-the second word is basalt", "+the second word is granite"),
            _patch("*** Add File: third.txt", "+the third word is copper"),
        ),
        _printed("exec_command", "first.txt", "third.txt"),
        _printed("exec_command", "first.txt", "second.txt", "third.txt"),
    ),
}
"""Ten calls with edits, each round at once, by the name of the host's shell. The last three print the files."""
PICTURES: Mapping[str, Document] = {"Read": {"file_path": "picture.png"}, "view_image": {"path": "picture.png"}}
"""The arguments of each host's tool that shows a picture, by its name."""
LONG = ("chat_compacts", "chat_bursts")
"""The kinds of tasks whose context overflows."""
WORDS = {"first": "amber", "second": "basalt"}
SUMMARY = re.compile("TEXT ONLY|CHECKPOINT COMPACTION")
"""How Claude Code and Codex ask for a summary."""
LONG_TOKENS = 260_000
"""Near the end of the context that Codex knows of its models: it compacts without an error."""


class Refused(Exception):
    """The request is not valid."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What the model does next: it says `text`, and then makes all `calls`."""

    text: str
    calls: tuple[tuple[str, str, str], ...] = ()
    """Id, name and JSON arguments of each. A name in a namespace is `NAMESPACE/NAME`."""
    tokens: int = 0
    """The prompt's tokens that a chat states without being asked; 0: it states none."""


def next_turn(tools: list[str], results: list[str], kind: str) -> Turn:
    if kind not in {"task", "chat", "chat_whole", "chat_streams", "mcp"} or not tools:
        return Turn("All is well.")
    wanted = (
        [name for name in tools if name.endswith("echo")]
        if kind == "mcp"
        else [name for name in SHELLS if name in tools]
    )
    if not wanted:
        raise Refused(f"The tools have no shell, or no echo: {', '.join(tools)}")
    tool = wanted[0]
    words = [word for text in results for word in FOUND.findall(text)]
    printed = [text for text in results if LOST not in text]
    done = len(printed)
    if done < len(COMMANDS) and len(results) < MAX_CALLS:
        arguments = {"text": ECHOED[done]} if kind == "mcp" else SHELLS[tool](COMMANDS[done])
        call = len(results) + 1
        return Turn(f"I make call {call}.", ((f"call_{call}_of_the_task", tool, json.dumps(arguments)),))
    if len(words) < len(COMMANDS):
        raise Refused(f"The tool returned no word: {results}")
    return Turn(f"The words are {' and '.join(words)}.")


def next_edits(tools: list[str], printed: list[str]) -> Turn:
    rounds = next(rounds for shell, rounds in EDITS.items() if shell in tools)
    before = 0
    for calls in rounds:
        if before == len(printed):
            return Turn(f"I make {len(calls)} calls.", _numbered(calls, before + 1))
        before += len(calls)
    words = [word for text in printed[-3:] for word in FOUND.findall(text)]
    return Turn(f"After {before} calls the words are {', '.join(words)}.")


def next_picture(tools: list[str], results: int, seen: int) -> Turn:
    if results:
        return Turn(f"Pictures that I see: {seen}.")
    name, arguments = next((name, arguments) for name, arguments in PICTURES.items() if name in tools)
    return Turn("I open it.", _numbered([(name, arguments)], 1))


def next_of_long(tools: list[str], said: list[str]) -> Turn:
    """Return the summary that the host asks for, the call for a word that nobody has said, or the last text."""
    missing = [number for number, word in WORDS.items() if not any(word in text for text in said)]
    if SUMMARY.search(said[-1]):
        known = [f"the {number} word is {word}" for number, word in WORDS.items() if number not in missing]
        return Turn(f"<summary>{', '.join(known)}</summary>")
    if not missing:
        return Turn(f"The words are {' and '.join(WORDS.values())}.")
    number = missing[0]
    shell = next(name for name in EDITS if name in tools)
    call = (f"call_for_the_{number}", shell, json.dumps(SHELLS[shell](f"cat {number}.txt")))
    return Turn(f"I read the {number} word.", (call,), LONG_TOKENS if number == "second" else 0)


def _numbered(calls: Iterable[Call], first: int) -> tuple[tuple[str, str, str], ...]:
    numbered = enumerate(calls, first)
    return tuple((f"call_{number}_of_{name}", name, json.dumps(arguments)) for number, (name, arguments) in numbered)
