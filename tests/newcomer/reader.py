"""Somebody who cloned the repository a minute ago, and types what a page shows."""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx2
from docs.record import record

from tests.docs.blocks import ROOT, Block, blocks_of, commands_of, typed

GATEPASS = "http://127.0.0.1:8080"
BOUND_S = 600.0
"""The longest that the commands of one block may take: `make release` downloads all wheels."""
END_COMMENT = re.compile(r"\s+# .*$")
MASKS = (
    (r"gp-\S+", "gp-…"),
    (r"sha256:\w+", "sha256:…"),
    (r"\b[0-9a-f]{8}$", "…"),
    (r"\b\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
    (r"^\d\d:\d\d:\d\d ", "TIME "),
    (r"\b[a-z]{24}\b", "ID"),
    (r"\b[\d.]+ m?s\b", "SECONDS"),
    (r" \+\d+$", ""),
    (r" +", " "),
)
"""What differs between two runs, and how columns are filled."""


def masked(text: str) -> list[str]:
    """The lines of an output without what differs between two runs."""
    for pattern, instead in MASKS:
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    return [line.rstrip() for line in text.strip().splitlines()]


def commands(block: Block) -> list[str]:
    """What a reader types of a block, without comments."""
    shown = typed(block.text) if block.language == "console" else commands_of(block.text)
    return [END_COMMENT.sub("", line) for line in shown if line]


class Reader:
    """One shell of a newcomer, in a fresh clone with an empty HOME: see `.ci/newcomer`.

    `values` has what a page tells the reader to replace, such as the URL of their company's gateway. Commands of
    `left_out` are not typed. A `gatepass serve` without `&` gets a terminal of its own.
    """

    def __init__(self, scratch: Path, left_out: AbstractSet[str]) -> None:
        self.values: dict[str, str] = {}
        self._scratch, self._left_out = scratch, left_out
        self._number = 0
        self._blocks: list[Block] = []
        self._left: list[Block] = []
        self._done: set[str] = set()

    def __enter__(self) -> Self:
        command = [str(ROOT / ".ci/newcomer"), "bash"]
        self._shell = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        if os.geteuid() == 0:  # without the program, whose arguments root may simply run
            self.type('command -v sudo > /dev/null || sudo() { "$@"; }')
        self.type("printf 'silent\\nshow-error\\n' > ~/.curlrc")  # as in a terminal: the progress is for files
        self.clone = Path(self.type("pwd").strip())
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._shell.communicate(b"exit\n", timeout=BOUND_S)

    def type(self, text: str, *, stdin: str = "", fails: bool = False) -> str:
        """Run lines of shell in the current folder, and return what they print. Fails if one of them does."""
        if "gatepass serve" in text:
            with suppress(httpx2.ConnectError):
                httpx2.get(GATEPASS, trust_env=False)
                raise AssertionError(f"another program serves {GATEPASS}, which the pages use")
        self._number += 1
        lines, given, printed = (self._scratch / f"{self._number}.{name}" for name in ("sh", "stdin", "out"))
        lines.write_text(text)
        given.write_text(stdin)
        trap = 'failed="$? of $BASH_COMMAND"'
        whole = f"failed=0; trap {shlex.quote(trap)} ERR; source {lines} < {given} > {printed} 2>&1; trap - ERR\n"
        assert self._shell.stdin is not None
        self._shell.stdin.write(f'set -o pipefail; {whole}echo "$failed"\n'.encode())
        self._shell.stdin.flush()
        failed = self._line()
        output = printed.read_text(errors="replace")
        assert (failed != "0") is fails, f"{failed or 'the shell ended'}\n{text}\n{output}"
        return output

    def _line(self) -> str:
        """The next line of the shell itself: all that it runs prints to a file."""
        assert self._shell.stdout is not None
        line, end_s = b"", time.monotonic() + BOUND_S
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._shell.stdout], [], [], max(0.0, end_s - time.monotonic()))
            if not ready:
                os.killpg(self._shell.pid, signal.SIGTERM)
                raise TimeoutError(f"the commands did not end within {BOUND_S:.0f} s")
            if not (read := os.read(self._shell.stdout.fileno(), 65536)):
                break
            line += read
        return line.decode().strip()

    def stop(self) -> None:
        """End what runs in the other terminals."""
        self.type("kill $(jobs -p) 2> /dev/null || true; wait || true")

    def enter_folder(self) -> Path:
        """Go to a new empty folder, and return it."""
        folder = self._scratch / f"folder-{self._number}"
        folder.mkdir()
        self.type(f"cd {folder}")
        return folder

    def open(self, page: str) -> str:
        """Begin to read a page of the clone, and return its text. Every block of the page before is done."""
        self.close()
        self._blocks = [*blocks_of(self.clone / page, self.clone)]
        shell = [block for block in self._blocks if block.language in ("sh", "console")]
        self._left = [block for block in shell if set(commands(block)) - self._left_out]
        return (self.clone / page).read_text()

    def close(self) -> None:
        assert self._left == [], "a block of commands is neither run nor in the list of those that are left out"

    def replaced(self, text: str) -> str:
        for shown, instead in self.values.items():
            text = text.replace(shown, instead)
        return text

    def shown(self, words: str) -> str:
        """The one block of the page with these words that has no commands."""
        (text,) = [one.text for one in self._blocks if words in one.text and one.language not in ("sh", "console")]
        return text

    def save(self, name: str, words: str) -> None:
        """Save a block that has no commands as a file."""
        (self._scratch / "saved").write_text(self.replaced(self.shown(words)))
        self.type(f"cp {self._scratch}/saved {name}")

    def run(self, words: str, *, stdin: str = "", fails: bool = False, last: bool = False) -> str:
        """Type the commands of the one block with these words, and return what they print.

        The output that a block shows is compared, with `last` only its last line.
        """
        block = self._next(words)
        self._done |= {*commands(block)}
        if block.language == "console":
            parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]
            return "".join(self._compared(part, last) for part in parts)
        # a line of the list is left out whole, with its continuation
        whole = re.findall(r"(?:.*\\\n)*.+\n", block.text)
        kept = [line for line in whole if commands(Block("", "sh", line))[0] not in self._left_out]
        serves = re.compile(r"^(gatepass serve\b[^&#\n]*?)( *#.*)?$", re.MULTILINE)
        text, served = serves.subn(r"\1 &", self.replaced("".join(kept)))
        output = self.type(text, stdin=stdin, fails=fails)
        if served:
            self.wait_for_gatepass()
        return output

    def same(self, words: str) -> None:
        """Pass over a block whose commands were typed before, on this page or in the other language."""
        assert {*commands(self._next(words))} - self._left_out <= self._done

    def _next(self, words: str) -> Block:
        (block,) = [one for one in self._left if words in one.text]
        self._left.remove(block)
        return block

    def _compared(self, part: str, last: bool) -> str:
        command, _, shown = part.partition("\n")
        output = self.type(self.replaced(command))
        begin = -1 if last else 0
        assert masked(output)[begin:] == masked(shown)[begin:], f"{command}\n{output}"
        return output

    def wait_for_gatepass(self) -> None:
        self.type(f"curl --silent --retry 40 --retry-connrefused --retry-delay 1 {GATEPASS}/healthz")

    def answer(self, words: str, answers: list[str]) -> str:
        """Type the one command of a block in a terminal, and the next answer at each question of the program."""
        (command,) = commands(self._next(words))
        folder, program = self.type(f"pwd\ncommand -v {command.split()[0]}").split()
        variables = dict(pair.split("=", 1) for pair in self.type("env -0").split("\0") if pair)
        lines = record([program, *command.split()[1:]], Path(folder), answers, variables)
        return "\n".join(text for _, text in lines)


def chat(key: str, path: str = "/v1/chat/completions", **more: Any) -> httpx2.Response:
    """The answer to one question, as a client of gatepass gets it."""
    with httpx2.Client(trust_env=False, timeout=60) as client:
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], **more}
        return client.post(f"{GATEPASS}{path}", json=body, headers={"authorization": f"Bearer {key}"})
