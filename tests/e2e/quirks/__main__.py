"""Measure the quirks; print each row and the counts of each client: `python -m tests.e2e.quirks [--write] [MODEL …]`.

`--write` puts the counts into docs/quirks.md. Names of models (the rows' own) measure these rows alone. What went wrong
through gatepass goes to stderr, with the reason.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.quirks.assessment import Mark
from tests.e2e.quirks.measurement import Side, measured
from tests.e2e.quirks.rows import ROWS
from tests.e2e.quirks.table import lines, summary
from tests.e2e.servers import ROOT

PAGE = ROOT / "docs" / "quirks.md"
BEGIN, END = "<!-- the table: python -m tests.e2e.quirks --write -->\n", "<!-- end of the table -->\n"


def complaints(through: Side) -> Iterator[str]:
    for title, verdicts in through.seen.items():
        for (model, way), verdict in verdicts.items():
            if verdict.mark is not Mark.RIGHT:
                yield f"{model} {way} {title}: {verdict.mark} {verdict.why}"


def write(table: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main(arguments: list[str]) -> None:
    names = [name for name in arguments if not name.startswith("--")]
    rows = [row for row in ROWS if not names or row.model in names]
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        raw, through = measured(Path(folder), rows=rows)
    print(*lines(rows, raw, through), "", *summary(raw, through), sep="\n")
    for complaint in sorted(complaints(through)):
        print(complaint, file=sys.stderr)
    print(f"{time.monotonic() - began_s:.0f} s", file=sys.stderr)
    if "--write" in arguments:
        write("\n".join(summary(raw, through)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
