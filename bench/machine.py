"""The hardware and the versions of a run, without names, places and times."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from bench.environments import SetupFailed, nginx
from bench.paths import ENVIRONMENTS, ROOT

LIBRARIES = {
    "gatepass": ("uvicorn", "uvloop", "httptools", "httpx2", "fastapi"),
    "naive": ("fastapi", "httpx"),
    "openai-forward": ("openai-forward",),
    "litellm": ("litellm",),
}
BUSY = 0.3
"""Above this load before a run, other work disturbs the figures."""


def machine() -> dict[str, str | float]:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return {
        "cpu": found[1] if found else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "nginx": _nginx_version(),
        "load before the run": round(os.getloadavg()[0], 2),
    }


def _nginx_version() -> str:
    try:
        output = subprocess.run([nginx(), "-v"], check=False, capture_output=True, text=True, timeout=10).stderr
    except (SetupFailed, OSError):
        return "none"
    return output.strip().rpartition("/")[2]


def source() -> str:
    """Return a checksum of src/. The page combines only figures of the same code."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "src").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def commit() -> str:
    """Return the commit of the checkout; "" if it is not a git repository."""
    command = ["git", "rev-parse", "--short=8", "HEAD"]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=10).stdout.strip()


def versions() -> dict[str, dict[str, str]]:
    """Return the versions of the measured libraries, by environment."""
    found = {name: libraries for name, listed in LIBRARIES.items() if (libraries := _versions(name, listed))}
    package = ENVIRONMENTS / "portkey/node_modules/@portkey-ai/gateway/package.json"
    if package.exists():
        found["portkey"] = {"@portkey-ai/gateway": json.loads(package.read_text(encoding="utf-8"))["version"]}
    return found


def _versions(environment: str, libraries: tuple[str, ...]) -> dict[str, str]:
    home = Path(sys.prefix) if environment == "gatepass" else ENVIRONMENTS / environment
    folders = list((home / "lib").glob("python*/site-packages"))
    return {name: found for name in libraries for folder in folders if (found := _version_in(folder, name))}


def _version_in(folder: Path, name: str) -> str | None:
    for info in folder.glob(f"{name.replace('-', '_')}-*.dist-info"):
        return info.name.rpartition(".dist-info")[0].rpartition("-")[2]
    return None


if __name__ == "__main__":
    print(source())
