"""`gatepass healthcheck` against real sockets that answer, refuse, hang and talk nonsense."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from click.testing import CliRunner, Result

from gatepass.cli.healthcheck import healthcheck

LONG_S = 60.0
SHORT_S = 0.3
"""For a server that never answers."""


@contextmanager
def one_answer(answer: bytes | None) -> Iterator[tuple[int, list[bytes]]]:
    """A server for one request, which sends `answer` or nothing. Yields its port and what it received."""
    received: list[bytes] = []
    left = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            received.append(connection.recv(4096))
            if answer is None:
                left.wait()
            else:
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1], received
        finally:
            left.set()
            thread.join()


def ask(port: int, timeout_s: float = LONG_S, **environment: str) -> Result:
    reported = {"GATEPASS_PORT": str(port), "GATEPASS_HOST": "0.0.0.0"} | environment
    return CliRunner().invoke(healthcheck, ["--timeout", str(timeout_s)], env=reported)


def test_a_live_server_is_exit_code_0_and_silence() -> None:
    with one_answer(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") as (port, received):
        result = ask(port)
    assert (result.exit_code, result.output) == (0, "")
    assert received[0].startswith(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:")


@pytest.mark.parametrize(
    ("answer", "timeout_s", "reason"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", LONG_S, "{} answered 503 to GET /healthz"),
        (None, SHORT_S, "no answer from {}: no answer in time"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", LONG_S, "no answer from {}: its answer is not HTTP"),
    ],
    ids=["status", "hangs", "no HTTP"],
)
def test_another_answer_is_exit_code_1_with_the_reason(answer: bytes | None, timeout_s: float, reason: str) -> None:
    with one_answer(answer) as (port, _):
        result = ask(port, timeout_s)
    assert (result.exit_code, result.output) == (1, f"Error: {reason.format(f'127.0.0.1:{port}')}\n")


def test_a_closed_port_is_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = ask(port)
    assert result.exit_code == 1
    assert f"no answer from 127.0.0.1:{port}: connection refused" in result.output
