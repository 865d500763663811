"""Measure the quirks and print the counts of each client: `python -m tests.e2e.quirks [--write] [MODEL …]`.

`--write` updates the table of docs/quirks.md. MODELs select rows. stderr lists the failures through gatepass with their
reasons.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.clients.table import write
from tests.e2e.quirks.assessment import Outcome
from tests.e2e.quirks.measurement import PathResults, measure_directly, measure_via_gatepass
from tests.e2e.quirks.rows import ROWS
from tests.e2e.quirks.table import summary
from tests.e2e.servers import ROOT

PAGE = ROOT / "docs" / "quirks.md"
BEGIN = "<!-- the table: python -m tests.e2e.quirks --write -->\n"


def failures(via_gatepass: PathResults) -> Iterator[str]:
    for title, assessments in via_gatepass.assessments.items():
        for (model, mode), assessment in assessments.items():
            if assessment.outcome is not Outcome.RIGHT:
                yield f"{model} {mode} {title}: {assessment.outcome} {assessment.reason}"


def main(arguments: list[str]) -> None:
    names = [name for name in arguments if not name.startswith("--")]
    rows = [row for row in ROWS if not names or row.model in names]
    began_s = time.monotonic()
    direct = measure_directly(rows)
    with tempfile.TemporaryDirectory() as folder:
        via_gatepass = measure_via_gatepass(Path(folder), rows)
    print(*summary(direct, via_gatepass), sep="\n")
    for failure in sorted(failures(via_gatepass)):
        print(failure, file=sys.stderr)
    print(f"{time.monotonic() - began_s:.0f} s", file=sys.stderr)
    if "--write" in arguments:
        write("\n".join(summary(direct, via_gatepass)), PAGE, BEGIN)


if __name__ == "__main__":
    main(sys.argv[1:])
