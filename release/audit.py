"""Ask an advisory service about every pin of the locks, with pip-audit.

The first question is about a pin that is known to be vulnerable. If pip-audit does not fail for it, nothing was
scanned, and a silence about the other pins proves nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from release.locks import REQUIREMENTS, released

PLANTED, PLANTED_ID = "jinja2==2.4.1", "CVE-2014-0012"
"""A pin that no lock has, and an advisory of 2014 about it."""
TIMEOUT_S = 15
NOT_SCANNED = 3
NOT_RUN = 127
"""What a shell returns for a command that it does not find."""


@dataclass(frozen=True, slots=True)
class Verdict:
    scanned: bool
    found: bool
    text: str

    def __str__(self) -> str:
        return self.text


def scan(names: Sequence[str], options: Sequence[str] = (), *, requirements: Path = REQUIREMENTS) -> Verdict:
    """Audit NAME.txt in `requirements` for each name. `options` go to pip-audit, such as another service."""
    with tempfile.TemporaryDirectory() as folder:
        planted = Path(folder) / "planted.txt"
        planted.write_text(f"{PLANTED}\n")
        code, output = _pip_audit([planted], ["--no-deps", *options])
    if code != 1 or PLANTED_ID not in output:
        last = textwrap.shorten((output.strip().splitlines() or ["no output"])[-1], 200, placeholder=" …")
        service = next((option.partition("=")[2] for option in options if "-url=" in option), "PyPI")
        tried = "" if code == NOT_RUN else f"pip-audit asked {service} about {PLANTED} and did not find {PLANTED_ID}: "
        return Verdict(False, False, f"not scanned: {tried}{last}")
    code, output = _pip_audit([requirements / f"{name}.txt" for name in names], ["--require-hashes", *options])
    if code:
        return Verdict(True, True, f"pip-audit ended with {code}:\n{output}")
    return Verdict(True, False, f"no advisory about a pin of {', '.join(names)}; found the planted {PLANTED_ID}")


def _pip_audit(files: Sequence[Path], options: Sequence[str]) -> tuple[int, str]:
    command = [str(Path(sys.executable).with_name("pip-audit")), "--strict", "--disable-pip", "--progress-spinner=off"]
    if not Path(command[0]).is_file():
        return NOT_RUN, f"{command[0]} not found: remove .release, and `make release` installs it again"
    given = [f"--requirement={file}" for file in files]
    done = subprocess.run(
        [*command, f"--timeout={TIMEOUT_S}", *options, *given], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def main() -> int:
    """Print the verdict. Exit codes: 0 no advisory, 1 an advisory, 3 not scanned."""
    parser = argparse.ArgumentParser(prog="python -m release.audit", description=__doc__)
    parser.add_argument("--osv-url", help="a service with the API of OSV, instead of PyPI's")
    parser.add_argument("locks", nargs="*", help="names in requirements/, without .txt (default: those of a release)")
    given = parser.parse_args()
    service = ["--vulnerability-service=osv", f"--osv-url={given.osv_url}"] if given.osv_url else ()
    verdict = scan(given.locks or released(), service)
    print(verdict)
    return NOT_SCANNED if not verdict.scanned else int(verdict.found)


if __name__ == "__main__":
    sys.exit(main())
