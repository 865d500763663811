"""A server that answers and closes while the body still arrives: unread bytes make the kernel reset the connection."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gatepass.errors import Fault
from tests.integration.gateway import descriptors
from tests.integration.scripted import reply
from tests.integration.transport.hand import DIRECT
from tests.waiting import until

MIB = 1024 * 1024


TIMES = 12
"""The moment of the reset is chance."""


@contextmanager
def hanging_up(answer: bytes) -> Iterator[str]:
    """Read a request's head, send `answer` and close, in another thread."""

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                received = b""
                while b"\r\n\r\n" not in received:
                    received += connection.recv(1024)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("size", [3 * MIB, 8 * MIB])
async def test_refusal_followed_by_a_reset_is_the_reply(size: int):
    """The loop's next write fails before it reads the rejection from the kernel's buffer."""
    with hanging_up(reply(b"too large", 413, connection="close")) as url:
        for _ in range(TIMES):
            async with DIRECT.open() as hand:
                answer = await hand.ask(url, b"x" * size)
                assert (answer.status, answer.body) == (413, b"too large")


async def test_a_reset_in_the_middle_of_a_refusal_is_a_fault():
    with hanging_up(reply(b"too large", 413, content_length="99")) as url:
        for _ in range(TIMES):
            async with DIRECT.open() as hand:
                assert (await hand.fault(url, b"x" * 8 * MIB)).kind is Fault.CLOSED


async def test_reset_before_a_reply_is_a_fault_and_leaks_no_file():
    with hanging_up(b"") as url:
        async with DIRECT.open() as hand:
            await hand.fault(url, b"x" * 8 * MIB)
            before = descriptors()
            for _ in range(TIMES):
                assert (await hand.fault(url, b"x" * 8 * MIB)).kind is Fault.CLOSED
            await until(lambda: descriptors() <= before)
