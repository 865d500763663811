"""Undoes content codings piece by piece, bounded.

Upstreams are asked for `identity`; some send gzip all the same, and a stream of events must not wait
in a decompressor's buffer.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol, Self

from gatepass.call import Response
from gatepass.errors import Fault, TransportFault
from gatepass.transport.seam import pour

PIECE_BYTES = 256 * 1024
"""The largest piece handed on at once: a compressed bomb grows no further than what is read."""

GZIP_WINDOW = 16 + zlib.MAX_WBITS


class Decoder(Protocol):
    def decode(self, piece: bytes) -> Iterator[bytes]:
        """All that can be decoded so far, in bounded pieces; raises TransportFault INVALID."""
        ...

    def finish(self) -> None:
        """Raises TransportFault CLOSED where the coding did not end."""
        ...


class ZlibDecoder:
    """gzip (RFC 1952, members may follow each other) and deflate (RFC 1950)."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._inflate = zlib.decompressobj(window)

    def decode(self, piece: bytes) -> Iterator[bytes]:
        rest = piece
        while rest:
            if self._inflate.eof:
                self._inflate = zlib.decompressobj(self._window)
            try:
                out = self._inflate.decompress(rest, PIECE_BYTES)
            except zlib.error as error:
                raise TransportFault(Fault.INVALID, f"the compressed reply is broken: {error}") from None
            rest = self._inflate.unconsumed_tail or self._inflate.unused_data
            if out:
                yield out

    def finish(self) -> None:
        if not self._inflate.eof:
            raise TransportFault(Fault.CLOSED, "the compressed reply broke off")


def decoder_of(coding: bytes | None) -> Decoder | None:
    """The decoder of a content-encoding; None for identity. Raises TransportFault for one we do not know."""
    name = (coding or b"").strip().lower()
    if name in (b"", b"identity"):
        return None
    if name in (b"gzip", b"x-gzip"):
        return ZlibDecoder(GZIP_WINDOW)
    if name == b"deflate":
        return ZlibDecoder(zlib.MAX_WBITS)
    raise TransportFault(Fault.INVALID, f"the reply is encoded as {name[:40].decode('ascii', 'replace')}, unasked")


class Decoded:
    """A Response whose content coding is undone; its header fields are as they came."""

    def __init__(self, response: Response, decoder: Decoder) -> None:
        self.status = response.status
        self.headers = response.headers
        self._response = response
        self._decoder = decoder
        self._pieces = aiter(response)
        self._ready: Iterator[bytes] = iter(())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while (ready := next(self._ready, None)) is None:
            try:
                piece = await anext(self._pieces)
            except StopAsyncIteration:
                self._decoder.finish()
                raise
            self._ready = self._decoder.decode(piece)
        return ready

    @property
    def ended(self) -> bool:
        return self._response.ended

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        return await pour(self, take)

    def aclose(self) -> Awaitable[None]:
        return self._response.aclose()


def decoded(response: Response, coding: bytes | None) -> Response:
    """`response` itself where `coding`, its content-encoding, is none; raises as `decoder_of` does."""
    decoder = decoder_of(coding) if coding is not None else None
    return response if decoder is None else Decoded(response, decoder)
