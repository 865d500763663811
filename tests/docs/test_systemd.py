"""The unit of deploy/systemd: its settings fit the code, the page shows its exposure, and gatepass serves under it."""

import ctypes
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gatepass.cli.options import UNUSABLE
from gatepass.config.model import Limits, ServerConfig
from tests.docs import confined
from tests.docs.test_operations import descriptors
from tests.integration.gateway import CHAT, HELLO, JSON, Ask
from tests.integration.processes import serving
from tests.integration.scripted import Scripted, Send, reply
from tests.waiting import BOUND_S

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy/systemd/gatepass.service"
PAGE = (ROOT / "docs/operations/run.md").read_text()
LINES = re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE)
SERVICE = dict(LINES)
ANALYZE = shutil.which("systemd-analyze")


def analyze(*arguments: str | Path) -> str:
    done = subprocess.run(
        [str(ANALYZE), "--no-pager", *arguments], capture_output=True, text=True, timeout=BOUND_S, check=True
    )
    return done.stdout


def has_libseccomp() -> bool:
    try:
        ctypes.CDLL(confined.LIBRARY)
    except OSError:
        return False
    return True


def test_the_unit_fits_the_code() -> None:
    assert int(SERVICE["TimeoutStopSec"]) >= ServerConfig().drain_timeout_s + 5
    assert int(SERVICE["RestartPreventExitStatus"]) == UNUSABLE
    assert int(SERVICE["LimitNOFILE"]) >= descriptors(Limits().connections)
    assert shlex.split(SERVICE["ExecStart"])[1:] == ["serve", "--config", "/etc/gatepass/gatepass.yaml"]


def test_the_page_installs_the_files_of_the_folder_and_uses_the_socket_of_the_unit() -> None:
    assert {str(file.relative_to(ROOT)) for file in UNIT.parent.iterdir()} == set(
        re.findall(r"deploy/systemd/[\w.@]+", PAGE + (ROOT / "docs/scaling.md").read_text())
    )
    template, scaling = UNIT.with_name("gatepass@.service").read_text(), (ROOT / "docs/scaling.md").read_text()
    (ports,) = re.findall(r"# One process for each port: `(systemctl .+)`\. docs/scaling\.md#systemd has", template)
    assert f"sudo {ports}\n" in scaling
    assert "gatepass.yaml needs a `store`" in template
    socket = SERVICE["Environment"].removeprefix("GATEPASS_CONTROL_SOCKET=")
    assert socket == f"/run/{SERVICE['RuntimeDirectory']}/control.sock"
    assert f"--socket {socket}" in PAGE
    assert f"u {SERVICE['User']} " in UNIT.with_name("gatepass.sysusers").read_text()


@pytest.mark.skipif(ANALYZE is None, reason="requires Debian's package systemd")
def test_the_exposure_of_the_unit_is_at_most_that_of_the_page() -> None:
    """Later versions of systemd rate more settings, so that the figure is a bound."""
    (shown,) = re.findall(r"→ Overall exposure level for gatepass\.service: ([\d.]+) OK", PAGE)
    bound = f"--threshold={round(float(shown) * 10) + 3}"
    assert f": {shown} OK" in analyze("security", "--offline=true", UNIT) or analyze(
        "security", "--offline=true", bound, UNIT
    )


def syscalls_of(group: str) -> set[str]:
    lines = analyze("syscall-filter", group).splitlines()[1:]
    names = {line.strip() for line in lines if line.strip() and not line.strip().startswith("#")}
    return {call for name in names for call in (syscalls_of(name) if name.startswith("@") else {name})}


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


@pytest.mark.skipif(
    ANALYZE is None or not has_libseccomp(), reason="requires Debian's packages systemd and libseccomp2"
)
async def test_gatepass_serves_under_the_system_calls_and_the_memory_rule_of_the_unit(
    tmp_path: Path,
) -> None:
    allowed, refused = (value for name, value in LINES if name == "SystemCallFilter")
    calls = syscalls_of(allowed) - {call for group in refused.removeprefix("~").split() for call in syscalls_of(group)}
    python = tmp_path / "python"
    command = shlex.join([sys.executable, confined.__file__, ",".join(sorted(calls)), sys.executable])
    python.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    python.chmod(0o755)
    answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]}
    async with Scripted(answer=lambda _: [Send(reply(answer))]) as upstream:
        settings = {
            "server": {"control_socket": str(tmp_path / "run" / "control.sock")},
            "upstreams": {"chat": {"base_url": f"{upstream.url}/v1"}},
        }
        config = tmp_path / "gatepass.json"
        config.write_text(json.dumps(settings))
        async with serving("--config", str(config), "--port", "0", python=str(python)) as running:
            answered = await Ask(await running.port, "POST", CHAT, JSON, json.dumps(HELLO).encode()).answer()
            status = status_of(running.process.pid)
    assert answered.status == 200, running.lines
    assert "Seccomp:\t2\n" in status
    assert "NoNewPrivs:\t1\n" in status
