"""Measure the table of clients and print it: `python -m tests.e2e.clients [--write] [WORD …]`.

`--write` puts it into docs/compatibility.md. Words choose the clients whose title holds one of them. What went wrong
through gatepass goes to stderr, with the reason; with `--straight` what went wrong without it, too.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.clients.measurement import CLIENTS, Side, opened
from tests.e2e.clients.table import text, write


def complaints(side: Side) -> Iterator[str]:
    for title in side.seen:
        yield from (f"{title}: {told}" for told in side.wrong(title))
        yield from (f"{title}: {trace}" for trace in dict.fromkeys(side.traces[title]))


def main(arguments: list[str]) -> None:
    words = [word for word in arguments if not word.startswith("--")]
    clients = [client for client in CLIENTS if not words or any(word in client.title for word in words)]
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as street:
        for client in clients:
            street.measure(client)
    raw, through = street.raw, street.through
    table = text(clients, raw, through)
    print(table)
    if "--straight" in arguments:
        print(*complaints(raw), sep="\n", end="\n\n", file=sys.stderr)
    print(*complaints(through), sep="\n", file=sys.stderr)
    print(f"{time.monotonic() - began_s:.0f} s", file=sys.stderr)
    if "--write" in arguments:
        write(table)


if __name__ == "__main__":
    main(sys.argv[1:])
