"""`gatepass serve` before it serves, as a process: its flags, its log, a stop at once and an early reload."""

import asyncio
import io
import json
import re
import signal
import socket
from pathlib import Path
from typing import Any

from gatepass.cli import serve
from gatepass.config.access import hash_key
from tests.integration.gateway import Ask
from tests.integration.processes import Serving, python_process, started
from tests.waiting import until, until_async

CONFIGURATION = {"upstreams": {"chat": {"base_url": "http://127.0.0.1:9/v1"}}}
KEY = "gp-the-new-key-0123456789"


async def outcome(program: str) -> tuple[int | None, str]:
    """Return the exit code of a Python program, and its output."""
    ran = await python_process("-c", program)
    out, _ = await ran.communicate()
    return ran.returncode, out.decode()


def written(folder: Path, **blocks: object) -> str:
    path = folder / "gatepass.json"
    path.write_text(json.dumps({**CONFIGURATION, **blocks}))
    return str(path)


async def test_early_sigterm_ends_the_process_at_once():
    code, output = await outcome(
        "import os, signal\n"
        "from gatepass.cli import main, serve\n"
        "def imports(*_):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        for _ in range(100_000): pass\n"
        "    except BaseException:\n"
        "        pass\n"
        "    print('went on', flush=True)\n"
        "    os._exit(9)\n"
        "serve.ServeFlags.load = imports\n"
        "main(['serve'])\n"
    )
    assert (code, output) == (0, "")


async def served(*flags: str) -> tuple[int, list[str]]:
    """The exit code and the lines of a `gatepass serve` that is stopped once it listens or has ended."""
    running = Serving(await python_process("-m", "gatepass", "serve", *flags))
    reading = asyncio.create_task(running.read())
    await until(lambda: any("listen" in line for line in running.lines))
    if running.process.returncode is None and not any("cannot_listen" in line for line in running.lines):
        running.process.send_signal(signal.SIGTERM)
    code = await running.ended()
    await reading
    return code, running.lines


async def test_every_line_is_an_event_of_the_log_in_the_format_of_the_flag(tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    config = written(tmp_path, log={"format": "json"})
    code, lines = await served("--config", config, "--port", "0", "--log-format", "text")
    events = [re.match(r"\d{4}-\d\d-\d\dT\S+Z (?:info|warning) +([a-z_]+)(?: |$)", line) for line in lines]
    assert code == 0
    assert [found[1] for found in events if found][:3] == ["configuration_warning", "starting", "listening"]
    assert None not in events
    assert "HTTP_PROXY is set and not used" in lines[0]


async def test_a_port_in_use_is_a_line_of_the_log_and_a_level_hides_lines(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, lines = await served("--config", written(tmp_path), "--port", port, "--log-level", "error")
    (line,) = map(json.loads, lines)
    assert (code, line["event"], line["level"]) == (3, "cannot_listen", "error")
    assert (line["address"], line["reason"]) == (f"127.0.0.1:{port}", "Address already in use")
    assert line["used_by"] == "another program or another gatepass"


async def test_a_port_of_a_gatepass_with_its_own_control_socket_is_of_a_gatepass(tmp_path):
    path = tmp_path / "own.sock"
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket(socket.AF_UNIX) as control:
        control.bind(str(path))
        control.listen()
        config = written(tmp_path, server={"control_socket": str(path)})
        code, lines = await served("--config", config, "--port", str(taken.getsockname()[1]))
    (line,) = map(json.loads, lines)
    assert (code, line["used_by"]) == (3, "a gatepass of this user")


def test_at_a_terminal_the_address_is_a_sentence(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", written := Terminal())
    serve.print_url("http://127.0.0.1:8080")
    serve.print_url("http://127.0.0.1:8080", has_page=True)
    assert written.getvalue() == (
        "gatepass listening on http://127.0.0.1:8080\n"
        "gatepass listening on http://127.0.0.1:8080, page for operators: http://127.0.0.1:8080/ui/\n"
    )


async def test_too_few_descriptors_are_a_line_while_none_is_free(tmp_path):
    """Idle connections are closed then, so that others are accepted."""
    soft, hard = 32, 64
    running = Serving(
        await python_process(
            "-c",
            "import resource, sys\n"
            "from gatepass.cli import main\n"
            f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
            f"main(['serve', '--config', {written(tmp_path)!r}, '--port', '0'])\n",
        )
    )
    reading = asyncio.create_task(running.read())
    try:
        port = await running.port
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2 * hard)]
        await until(lambda: logged(running.lines, "descriptors_exhausted"))
        await until_async(lambda: is_alive(port))
        for _, writer in silent:
            writer.close()
    finally:
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
        await reading
    exhausted = logged(running.lines, "descriptors_exhausted")
    assert [line["limit"] for line in exhausted] == [64], "one in a minute, and the soft limit became the hard one"


def logged(lines: list[str], event: str) -> list[dict[str, Any]]:
    found = map(json.loads, lines)
    return [line for line in found if line["event"] == event]


async def is_alive(port: int) -> bool:
    try:
        return (await Ask(port, "GET", "/healthz", {}, b"").answer()).status == 200
    except (OSError, EOFError):
        return False


async def test_the_first_connection_after_a_reload_during_the_start_meets_the_new_keys(tmp_path: Path):
    keys = [{"name": "rag", "hash": hash_key(KEY)}]
    config, changed = written(tmp_path), tmp_path / "changed.json"
    changed.write_text(json.dumps({**CONFIGURATION, "access": {"keys": keys}}))
    program = (
        "import os, signal\n"
        "from gatepass.cli import main, serve\n"
        "opened = serve.open_app_state\n"
        "def replaced(loaded):\n"
        f"    os.replace({str(changed)!r}, {config!r})\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    return opened(loaded)\n"
        "serve.open_app_state = replaced\n"
        f"main(['serve', '--config', {config!r}, '--port', '0', '--log-format', 'json'])\n"
    )
    running = Serving(await python_process("-c", program))
    reading = asyncio.create_task(running.read())
    try:
        port = await running.port
        answers = [
            await Ask(port, "GET", "/status", {"authorization": f"Bearer {key}"}, b"").answer() for key in ("", KEY)
        ]
        assert [answer.status for answer in answers] == [401, 403]
    finally:
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
        await reading


async def test_no_program_inherits_the_listening_socket(tmp_path):
    program, listing = tmp_path / "get-token", tmp_path / "listing"
    program.write_text(f"#!/bin/sh\nls -l /proc/$$/fd >{listing}.new; mv {listing}.new {listing}; echo a-token-1\n")
    program.chmod(0o700)
    settings = {
        "credentials": {"corp": {"type": "exec", "command": [str(program)]}},
        "upstreams": {"chat": {"base_url": "http://127.0.0.1:9/v1", "credential": "corp"}},
    }
    async with started(tmp_path, settings) as running:
        socket = listening_at(await running.port)
        await until(listing.exists)
    led = [line.partition(" -> ")[2] for line in listing.read_text().splitlines() if " -> " in line]
    assert len(led) > 3
    assert socket not in led


def listening_at(port: int) -> str:
    """The socket as /proc/PID/fd shows it (proc_net_tcp(5): the local address, and the inode)."""
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return next(f"socket:[{each[9]}]" for each in sockets if each[1].endswith(f":{port:04X}") and each[3] == "0A")


async def test_with_a_log_format_every_line_of_serve_follows_it_before_the_configuration_is_read(tmp_path: Path):
    file = tmp_path / "gatepass.json"
    file.write_text('{"upstreams": {"a": {}, "b": {}}}')
    lines = []
    for options in ((), ("--log-format", "json")):
        ran = await python_process("-m", "gatepass", "serve", "--config", str(file), *options)
        out, _ = await ran.communicate()
        assert ran.returncode == 2
        lines.append(out.decode().splitlines())
    plain, (line,) = lines
    event = json.loads(line)
    assert (event["event"], event["file"], event["problems"]) == ("configuration_unusable", str(file), plain)
