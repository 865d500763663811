"""Measure the table of clients and print it: `python -m tests.e2e.clients [--write] [WORD …]`.

`--write` updates docs/compatibility.md. WORDs select the clients whose title contains one of them. stderr lists the
failures through gatepass with their reasons. `--direct` also lists the failures without gatepass.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.clients.measurement import CLIENTS, PathResults, measuring
from tests.e2e.clients.table import text, write


def failures(results: PathResults) -> Iterator[str]:
    for title in results.results:
        yield from (f"{title}: {failure}" for failure in results.failures(title))
        yield from (f"{title}: {trace}" for trace in dict.fromkeys(results.traces[title]))


def main(arguments: list[str]) -> None:
    words = [word for word in arguments if not word.startswith("--")]
    clients = [client for client in CLIENTS if not words or any(word in client.title for word in words)]
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, measuring(Path(folder)) as measurement:
        for client in clients:
            measurement.measure(client)
    direct, via_gatepass = measurement.direct, measurement.via_gatepass
    table = text(clients, direct, via_gatepass)
    print(table)
    if "--direct" in arguments:
        print(*failures(direct), sep="\n", end="\n\n", file=sys.stderr)
    print(*failures(via_gatepass), sep="\n", file=sys.stderr)
    print(f"{time.monotonic() - began_s:.0f} s", file=sys.stderr)
    if "--write" in arguments:
        write(table)


if __name__ == "__main__":
    main(sys.argv[1:])
