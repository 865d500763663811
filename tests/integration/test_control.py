"""The control socket and its commands, against real processes: `gatepass reload`, `status` and `learned`."""

import asyncio
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gatepass.cli import main
from gatepass.cli.control import NotRunning, UnixConnection, found_socket, request
from gatepass.cli.serve import CANNOT_BIND
from gatepass.server import listening as listening_module
from gatepass.server.admin import ROUTES
from gatepass.server.process import CONTROL_CONNECTIONS
from tests.integration.processes import changed, started
from tests.integration.scripted import Scripted, Send, reply
from tests.waiting import until

UPSTREAMS = {"upstreams": {"chat": {"base_url": "http://127.0.0.1:9/v1", "credential": "fixed"}}}
CREDENTIALS = {"credentials": {"fixed": {"type": "static", "token": "fixed-token-1234"}}}
KEYS = {"access": {"keys": [{"name": "one", "hash": f"sha256:{0:064}"}]}}


def command(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.output


async def test_commands_reach_the_process_without_a_key(tmp_path: Path):
    path = tmp_path / "own" / "control.sock"
    server = {"control_socket": str(path), "drain_timeout_s": 30}
    configuration: dict[str, Any] = {"server": server, **UPSTREAMS, **CREDENTIALS, **KEYS}
    async with started(tmp_path, configuration) as running:
        await running.port
        await until(lambda: len(list_of(running.lines, "token_fetched")) >= 1)

        code, text = command("status", "--json", "--socket", str(path))
        page = json.loads(text)
        assert (code, page["ready"]) == (0, True)
        code, text = command("status", "--socket", str(path))
        assert code == 0
        first, _, *lines = text.splitlines()
        assert first == f"gatepass at http://127.0.0.1:{await running.port} (control socket {path})"
        assert [line.split() for line in lines[:2]] == [["READY", "IN", "FLIGHT"], ["yes", "0"]]
        assert sum(line.startswith("fixed ") and " static " in line for line in lines) == 1

        changed(tmp_path, models={"m": {"upstream": "chat"}}, log={"level": "debug"})
        code, text = command("reload", "--socket", str(path))
        assert (code, text.splitlines()) == (
            0,
            ["Reloaded. Changed:", "  models", "These settings need a restart: log"],
        )
        await running.logged('"event":"reloaded".*"trigger":"command"')
        code, text = command("reload", "--json", "--socket", str(path))
        assert (code, json.loads(text)["outcome"]) == (0, "unchanged")

        changed(tmp_path, models={"m": {"upstream": "nowhere"}})
        code, text = command("reload", "--socket", str(path))
        assert code == 2
        problem, end = text.splitlines()
        assert f"{tmp_path}/gatepass.json:1: models.m.upstream" in problem
        assert end == "The configuration was not reloaded: the old one continues."

        assert json.loads(request("GET", "/learned", str(path))) == {"rules": []}
        with socket.socket(socket.AF_UNIX) as client:  # the head of a request has a bound
            client.connect(str(path))
            client.sendall(b"GET /status HTTP/1.1\r\nx: " + b"a" * 100_000 + b"\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 431 ")
        code, text = command("keys", "list", "--running", "--socket", str(path))
        assert (code, text.splitlines()[1].split()) == (
            0,
            ["one", "caller", "plain", "never", "all", *["all", "but", "files,batches"], "valid", "-", "00000000"],
        )
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
    assert not path.exists()
    code, text = command("status", "--socket", str(path))
    assert (code, text) == (
        1,
        f"Error: no gatepass answers at {path}: No such file or directory. Start one with `gatepass serve`\n",
    )


async def test_a_new_secret_in_a_variable_requires_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "own" / "control.sock"

    async with Scripted(answer=lambda _: [Send(reply({"error": "invalid_client"}, 401))]) as server:
        corp = {"type": "oauth2", "token_url": f"{server.url}/token", "client_id": "i", "client_auth": "form"}
        blocks = {
            "server": {"control_socket": str(path), "drain_timeout_s": 30},
            "credentials": {"corp": {**corp, "client_secret": "${LLM_SECRET}"}},
            "upstreams": {"chat": {"base_url": f"{server.url}/v1", "credential": "corp"}},
            "models": {"m": {"upstream": "chat"}},
        }
        monkeypatch.setenv("LLM_SECRET", "old-client-secret")
        async with started(tmp_path, blocks) as running:
            await running.port
            await until(lambda: len(list_of(running.lines, "token_fetch_failed")) >= 1)
            code, text = await asyncio.to_thread(command, "reload", "--socket", str(path))
            assert code == 0
            for options in ((), ("--json",)):
                assert (await asyncio.to_thread(command, "status", "--socket", str(path), *options))[0] == 1
            code, text = await asyncio.to_thread(command, "status", "--socket", str(path))
            (line,) = [line for line in text.splitlines() if "invalid_client" in line]
            assert line.endswith(". A new secret requires a restart, because it is in an environment variable")


async def test_above_the_limit_the_oldest_connections_of_the_control_socket_close(tmp_path: Path):
    path, above = tmp_path / "own" / "control.sock", 5
    async with started(tmp_path, {"server": {"control_socket": str(path)}, **UPSTREAMS, **CREDENTIALS}) as running:
        await running.port
        with ExitStack() as stack:
            clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(CONTROL_CONNECTIONS + above)]
            for client in clients:
                client.connect(str(path))
            for client in clients[:above]:
                assert client.recv(1) == b""
            for client in clients[above:]:
                client.sendall(b"GET /learned HTTP/1.1\r\nhost: x\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 200 ")


def list_of(lines: list[str], event: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines if f'"event":"{event}"' in line]


async def test_the_only_gatepass_of_this_user_is_found_and_no_other_one_starts_with_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(listening_module, "SHARED_MEMORY", str(tmp_path))  # others may run on this machine
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("GATEPASS_CONTROL_SOCKET", raising=False)
    with pytest.raises(NotRunning, match="no running gatepass of this user"):
        found_socket()
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    async with started(tmp_path / "one", UPSTREAMS | CREDENTIALS) as running:
        port = await running.port
        own = tmp_path / "gatepass" / f"{port}.sock"
        assert found_socket() == str(own)
        code, text = command("reload")
        assert (code, text) == (0, "Nothing that a reload applies has changed.\n")
        configuration = {"server": {"control_socket": str(own)}, **UPSTREAMS, **CREDENTIALS}
        async with started(tmp_path / "two", configuration) as second:
            (refused,) = await second.logged('.*"cannot_listen".*')
            assert await second.ended() == CANNOT_BIND
        assert json.loads(refused[0])["reason"] == "another gatepass uses it"
        assert found_socket() == str(own)


@pytest.fixture
def folder_of_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder for control sockets, with no configuration in the current folder."""
    monkeypatch.setattr(listening_module, "SHARED_MEMORY", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("GATEPASS_CONTROL_SOCKET", "GATEPASS_CONFIG", "GATEPASS_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "gatepass"
    folder.mkdir(mode=0o700)
    return folder


@contextmanager
def living(folder: Path, *ports: int) -> Iterator[None]:
    with ExitStack() as sockets:
        for port in ports:
            one = sockets.enter_context(socket.socket(socket.AF_UNIX))
            one.bind(str(folder / f"{port}.sock"))
            one.listen()
        yield


def test_of_several_the_one_on_the_port_of_the_configuration_is_found(
    folder_of_sockets: Path, monkeypatch: pytest.MonkeyPatch
):
    file = folder_of_sockets.parent / "gatepass.yaml"
    with living(folder_of_sockets, 8080, 8081):
        with pytest.raises(NotRunning, match=r"several gatepass .* --config of its port: .*8080\.sock, "):
            found_socket()
        for text, found in (("server: {port: 8081}", "8081.sock"), ("upstreams: {}", "8080.sock")):
            file.write_text(text)
            file.chmod(0o600)
            assert Path(found_socket()).name == found
        file.write_text("server: {port: 9}")
        with pytest.raises(NotRunning, match=r"\Aseveral"):
            found_socket()
        file.write_text("upstreams:\n\tchat: {}\n")
        with pytest.raises(NotRunning, match=r"\Agatepass\.yaml:2: .*\nseveral gatepass .* --socket") as named:
            found_socket()
        checked = CliRunner().invoke(main, ["check"]).stderr.strip()
        assert named.value.message.startswith(checked)
        monkeypatch.setenv("GATEPASS_PORT", "8081")
        file.unlink()
        assert Path(found_socket()).name == "8081.sock"


@pytest.mark.parametrize("command", [["status"], ["reload"], ["tail", "--once"], ["show", "x"], ["learned"]])
def test_each_command_for_a_running_gatepass_takes_a_configuration_or_a_socket(
    folder_of_sockets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
):
    (file := tmp_path / "gatepass.yaml").write_text("server: {port: 8081}")
    (own := tmp_path / "own.yaml").write_text(f"server: {{control_socket: {tmp_path}/own.sock}}")

    def said(*options: str) -> str:
        return CliRunner().invoke(main, [*command, *options]).output

    assert "no gatepass of this user runs on the port 8081" in said("--config", str(file))
    assert f"no gatepass answers at {tmp_path}/own.sock" in said("--config", str(own))
    for both in (("--config", str(own), "--socket", "/s"), ("--socket", "/s", "--config", str(own))):
        assert "leave one of them out" in said(*both)
    assert "does not exist" in said("--config", f"{tmp_path}/none.yaml")
    monkeypatch.setenv("GATEPASS_PORT", "8082")
    assert "no gatepass of this user runs on the port 8082" in said("--config", str(file))


@pytest.mark.parametrize("others", [(), (8080,), (8080, 8081)])
def test_a_command_uses_the_socket_that_the_configuration_of_its_folder_names(
    folder_of_sockets: Path, others: tuple[int, ...]
):
    (file := folder_of_sockets.parent / "gatepass.yaml").write_text("server: {control_socket: own/1.sock}")
    file.chmod(0o600)
    (own := folder_of_sockets.parent / "own").mkdir(mode=0o700)
    with living(folder_of_sockets, *others), living(own, 1):
        assert found_socket() == "own/1.sock"
    (own / "1.sock").unlink()
    with living(folder_of_sockets, 8082):
        assert found_socket() == "own/1.sock"  # and never another one, although no gatepass answers there


def test_socket_of_a_killed_gatepass_is_not_a_running_one(folder_of_sockets: Path):
    with living(folder_of_sockets, 8081, 8082):
        pass
    with pytest.raises(NotRunning, match="no running gatepass of this user"):
        found_socket()
    with living(folder_of_sockets, 8080):
        assert Path(found_socket()).name == "8080.sock"
    assert len(list(folder_of_sockets.iterdir())) == 3


def test_a_file_that_cannot_be_read_is_named_because_it_may_name_another_socket(
    folder_of_sockets: Path, capsys: pytest.CaptureFixture[str]
):
    Path("gatepass.yaml").write_text("models:\n  x: [")
    with pytest.raises(NotRunning, match=r"gatepass\.yaml(.|\n)*no running gatepass of this user"):
        found_socket()
    with living(folder_of_sockets, 8080):
        assert Path(found_socket()).name == "8080.sock"
    said = capsys.readouterr().err
    assert "gatepass.yaml" in said
    assert "The only running gatepass answers, which may use another file: " in said


async def test_each_admin_route_is_served_where_its_row_says(tmp_path: Path):
    path = tmp_path / "own" / "control.sock"
    server = {"control_socket": str(path), "drain_timeout_s": 30}
    async with started(
        tmp_path, {"server": server, "upstreams": {"chat": {"base_url": "http://127.0.0.1:9/v1"}}}
    ) as up:
        port = await up.port

        def status(at: HTTPConnection, method: str, target: str) -> tuple[int, bytes]:
            body = b"{}" if method == "POST" else None
            fields = {"content-type": "application/json", "origin": f"http://127.0.0.1:{port}"}
            with closing(at):
                at.request(method, target, body, fields)
                reply = at.getresponse()
                return reply.status, reply.read()

        def check() -> None:
            for route in ROUTES:
                target = route.path.format(id="x")
                own = status(UnixConnection(str(path), 30), route.method, f"/{target}")
                page = status(HTTPConnection("127.0.0.1", port, timeout=180), route.method, f"/ui/api/{target}")
                assert (own[0] == 404, page[0] == 404) == (route.only == "page", route.only == "socket"), route
                if route.method == "GET" and route.path in (
                    "use",
                    "models",
                    "limits",
                    "learned",
                    "errors/{id}",
                    "capture",
                ):
                    assert own == page, route

        await asyncio.to_thread(check)
