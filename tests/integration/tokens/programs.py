"""Programs that print tokens, and what a test asks of the machine they ran on.

One that must hang sleeps for a minute at most: it ends by itself where the test that should see it killed fails.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
"""The loops that gatepass runs on, here and on other systems."""


def on(loop: str, work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(work)


def program(folder: Path, text: str, name: str = "get-token") -> str:
    path = folder / name
    path.write_text(f"#!{sys.executable} -IS\n{text}")
    path.chmod(0o700)
    return str(path)


def descriptors() -> set[str]:
    """The open files of this process, each as what it leads to."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return found


def children() -> list[str]:
    """The processes that this one has started and not reaped, zombies among them."""
    return [f"{pid} {state}" for pid, state, parent, _ in _processes() if parent == os.getpid()]


def in_group(group: int) -> list[int]:
    """The processes of a group that run."""
    return [pid for pid, state, _, of in _processes() if of == group and state != "Z"]


def _processes() -> Iterator[tuple[int, str, int, int]]:
    """Each process: its id, state, parent and group (proc(5))."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, group = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield int(stat.parent.name), state, int(parent), int(group)


def lives(pid: int) -> bool:
    """Return whether a process runs; a dead one that its parent has not reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
