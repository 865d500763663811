"""A network stream that knows whether anything was answered."""

from __future__ import annotations

import ssl

import httpcore2
import pytest

from gatepass.transport.watched import Unanswered, WatchedStream


class Played(httpcore2.AsyncNetworkStream):
    """Reads what it was given, in order; an error is raised."""

    def __init__(self, *reads: bytes | Exception, write: Exception | None = None) -> None:
        self.reads = list(reads)
        self.error = write
        self.closed = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        read = self.reads.pop(0)
        if isinstance(read, Exception):
            raise read
        return read

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self.error is not None:
            raise self.error

    async def start_tls(self, ssl_context, server_hostname=None, timeout=None) -> httpcore2.AsyncNetworkStream:
        if self.error is not None:
            raise self.error
        return self

    async def aclose(self) -> None:
        self.closed = True

    def get_extra_info(self, info: str) -> str:
        return info


ENDS = [b"", httpcore2.ReadError("reset"), ssl.SSLError("alert")]


@pytest.mark.parametrize("end", ENDS)
async def test_an_end_without_a_byte_is_unanswered(end: bytes | Exception):
    stream = WatchedStream(Played(end))
    await stream.write(b"request")
    with pytest.raises(Unanswered):
        await stream.read(10)


@pytest.mark.parametrize("end", ENDS[1:])
async def test_an_error_after_a_byte_is_an_error(end: Exception):
    stream = WatchedStream(Played(b"H", end))
    await stream.write(b"request")
    assert await stream.read(10) == b"H"
    with pytest.raises(httpcore2.ReadError) as caught:
        await stream.read(10)
    assert not isinstance(caught.value, Unanswered)


async def test_an_end_after_a_byte_is_an_end():
    stream = WatchedStream(Played(b"H", b""))
    await stream.write(b"request")
    assert [await stream.read(10), await stream.read(10)] == [b"H", b""]


async def test_each_request_is_watched_anew():
    stream = WatchedStream(Played(b"reply", b""))
    await stream.write(b"request")
    await stream.read(10)
    await stream.write(b"request")
    with pytest.raises(Unanswered):
        await stream.read(10)


async def test_an_alert_while_writing_is_an_error_of_the_library():
    with pytest.raises(httpcore2.WriteError, match="alert"):
        await WatchedStream(Played(write=ssl.SSLError("alert"))).write(b"request")


async def test_a_secured_stream_is_watched_too_and_a_failed_one_closed():
    context = ssl.create_default_context()
    assert isinstance(await WatchedStream(Played()).start_tls(context), WatchedStream)
    failing = Played(write=httpcore2.ConnectError("no"))
    with pytest.raises(httpcore2.ConnectError):
        await WatchedStream(failing).start_tls(context)
    assert failing.closed


async def test_the_rest_is_the_streams_own():
    played = Played()
    stream = WatchedStream(played)
    assert stream.get_extra_info("socket") == "socket"
    await stream.aclose()
    assert played.closed
