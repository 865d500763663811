"""Everything that a run needs and that is made once: Python environments, C programs, a certificate, nginx."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import trustme

from bench.paths import BENCH, BINARIES, CA_FILE, ENVIRONMENTS, GENERATED, REQUIREMENTS, ROOT, TLS, python_of

PROGRAMS = ("mock", "load")
LOCKS = {
    "naive": REQUIREMENTS / "naive.txt",
    "openai-forward": REQUIREMENTS / "openai-forward.txt",
    "litellm": REQUIREMENTS / "litellm.txt",
    "py-spy": REQUIREMENTS / "py-spy.txt",
}
PORTKEY_LOCK = ROOT / "tests/e2e/portkey/package-lock.json"
PIP = (
    "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
    "--no-deps", "--require-hashes", "--only-binary", ":all:",
)  # fmt: skip
INSTALL_S = 900
NO_NGINX = "nginx is missing: install the package nginx-light (Debian, Ubuntu)"
NGINX = GENERATED / "nginx" / "usr" / "sbin" / "nginx"


class SetupFailed(Exception):
    """A part of the rig cannot be made on this machine. The text contains the reason."""


def environment(name: str) -> Path:
    """Return the Python of the environment `name`, and create it from its lock file if needed; raise SetupFailed."""
    lock, home = LOCKS[name], ENVIRONMENTS / name
    stamp = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    mark = home / ".made-of"
    if mark.exists() and mark.read_text() == stamp:
        return python_of(name)
    print(f"making {home.relative_to(ROOT)}", file=sys.stderr, flush=True)
    shutil.rmtree(home, ignore_errors=True)
    _run([sys.executable, "-m", "venv", home], f"no environment for {name}")
    _run([python_of(name), *PIP, "-r", lock], f"{name} does not install")
    mark.write_text(stamp)
    return python_of(name)


def portkey() -> Path:
    """Return the program of Portkey's gateway, and install it from its lock file if needed; raise SetupFailed."""
    home = ENVIRONMENTS / "portkey"
    home.mkdir(parents=True, exist_ok=True)
    stamp, mark = hashlib.sha256(PORTKEY_LOCK.read_bytes()).hexdigest(), home / ".made-of"
    if not mark.exists() or mark.read_text() != stamp:
        print(f"making {home.relative_to(ROOT)}", file=sys.stderr, flush=True)
        for file in (PORTKEY_LOCK, PORTKEY_LOCK.with_name("package.json")):
            shutil.copy(file, home)
        _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], "Portkey does not install", home)
        mark.write_text(stamp)
    return home / "node_modules/@portkey-ai/gateway/build/start-server.js"


def programs() -> None:
    """Build the C programs that changed."""
    BINARIES.mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS:
        source, binary = BENCH / "src" / f"{name}.c", BINARIES / name
        if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
            _run(["gcc", "-O2", "-o", binary, source], f"{source.name} does not build (is gcc there?)")


def certificate() -> None:
    """Create a CA and the certificate of the upstream's TLS end."""
    TLS.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    server = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(str(CA_FILE))
    server.private_key_pem.write_to_path(str(TLS / "server.key"))
    server.cert_chain_pems[0].write_to_path(str(TLS / "server.pem"))


def nginx() -> Path:
    """Return the nginx of the machine, or the one that `fetch_nginx` unpacked; raise SetupFailed."""
    installed = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if installed is not None:
        return Path(installed)
    if not NGINX.exists():
        raise SetupFailed(NO_NGINX)
    return NGINX


def fetch_nginx() -> None:
    """Unpack Debian's package without installing it if the machine has no nginx; raise SetupFailed."""
    with suppress(SetupFailed):
        nginx()
        return
    home = GENERATED / "nginx"
    home.mkdir(parents=True, exist_ok=True)
    _run(["apt-get", "download", "nginx"], NO_NGINX, home)
    _run(["dpkg-deb", "-x", next(home.glob("nginx_*.deb")), home], NO_NGINX)


def _run(command: list[str | Path], message: str, folder: Path | None = None) -> None:
    try:
        completed = subprocess.run(
            command, check=False, cwd=folder, timeout=INSTALL_S, capture_output=True, text=True, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupFailed(f"{message}: {error}") from error
    if completed.returncode:
        lines = [line for line in completed.stderr.strip().splitlines() if line.startswith(("ERROR", "error", "E:"))]
        raise SetupFailed(f"{message}: {' '.join(lines or completed.stderr.strip().splitlines()[-1:])[:400]}")
