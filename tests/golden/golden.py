"""Compare what users see with a file of it, byte for byte. `make golden` writes the files again."""

import os
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent
WRITES = os.environ.get("GATEPASS_GOLDEN") == "write"
"""Whether the tests write the files instead of reading them. Read here: a test may empty the environment."""


def same(name: str, sections: Mapping[str, str]) -> None:
    """Fail if the file `name` differs from `sections`, which map a heading to its text."""
    text = "\n".join(f"=== {heading}\n{body.rstrip()}\n" for heading, body in sections.items())
    path = HERE / name
    if WRITES:
        path.write_text(text)
    assert text == path.read_text(), f"{name} differs: if the change is wanted, run `make golden`, and list it"
