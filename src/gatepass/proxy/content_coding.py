"""Decode a compressed request body (RFC 9110 section 8.4): the upstream receives it plain.

gzip and deflate need nothing else. zstd needs Python 3.14 or the package `backports.zstd`, and br the package `brotli`;
the extra `encodings` has both. A coding without its library is 415, and the error names the others.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from types import MappingProxyType
from typing import Any, Protocol

from gatepass.errors import BodyTooLarge, InvalidRequest, UnsupportedEncoding
from gatepass.http_client.response_body import GZIP_WINDOW, add_piece, taken
from gatepass.types import Headers

CODED_BYTES = 64 * 1024
"""A body is decoded in pieces of this size, because zlib copies the rest of its input after each piece of output."""
PIECE_BYTES = 256 * 1024
"""Limit on one piece of output. brotli may return twice as much."""
ZSTD_WINDOW_LOG = 23
"""The largest window is 8 MiB (RFC 9659). A frame can ask the decoder for up to 2 GiB."""


class Decoder(Protocol):
    """Decodes one member, frame or stream."""

    @property
    def eof(self) -> bool:
        """Whether the coded data is complete."""
        ...

    @property
    def needs_input(self) -> bool:
        """Whether `decompress` has no more output without more input."""
        ...

    @property
    def unused_data(self) -> bytes:
        """The input after the end of the coded data."""
        ...

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Add `data`, and return the next output. Raises an exception of the library for invalid data."""
        ...


class _Zlib:
    """gzip (RFC 1952) or deflate (RFC 1950), with the interface of the decoders in bz2, lzma and zstd."""

    def __init__(self, window: int) -> None:
        self._inflate = zlib.decompressobj(window)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        output = self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)
        self.needs_input = len(output) < max_length
        return output


class _Brotli:
    """A `brotli.Decompressor` with the same interface."""

    unused_data = b""  # the library rejects data after the end

    def __init__(self, decompressor: Any) -> None:
        self._decompressor = decompressor
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return bool(self._decompressor.is_finished())

    def decompress(self, data: bytes, max_length: int) -> bytes:
        output: bytes = self._decompressor.process(data, output_buffer_limit=max_length)
        self.needs_input = not output
        return output


Decode = Callable[[bytes, int], bytes]
"""Return the bytes of a coded body decoded, at most so many. The errors are those of `_decoded`."""


def _decoded(decoder: Decoder, fault: type[Exception], body: bytes, limit_bytes: int) -> bytes:
    """Return `body` decoded. It is one gzip member, zstd frame or stream. The library raises `fault` for invalid data.

    At most one piece above `limit_bytes` is held. Raises BodyTooLarge, and InvalidRequest if the data is invalid,
    incomplete or followed by other data.
    """
    pieces, size_bytes = list[bytes | BytesIO](), 0
    for at in range(0, len(body), CODED_BYTES):
        piece, has_more = body[at : at + CODED_BYTES], True
        while has_more:
            try:
                output = decoder.decompress(piece, PIECE_BYTES)
            except fault as error:
                raise _invalid(str(error).rpartition(": ")[2]) from None
            piece, size_bytes = b"", size_bytes + len(output)
            if size_bytes > limit_bytes:
                raise BodyTooLarge(f"The decompressed body is larger than {limit_bytes} bytes (limits.body_bytes).")
            add_piece(pieces, output)
            has_more = not (decoder.needs_input or decoder.eof)
        if decoder.eof:
            if decoder.unused_data or at + CODED_BYTES < len(body):
                raise _invalid("other data follows its end")
            return taken(pieces)
    raise _invalid("it is incomplete")


def _invalid(reason: str) -> InvalidRequest:
    return InvalidRequest(f"The compressed request body cannot be read: {reason}.")


def _zlib(window: int) -> Decode:
    return partial(_decoded, _Zlib(window), zlib.error)


def _zstd() -> Decode:
    """Return a decoder of zstd (RFC 8878). Raises ImportError."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
    return partial(_decoded, zstd.ZstdDecompressor(options=options), zstd.ZstdError)


def _brotli() -> Decode:
    """Return a decoder of br (RFC 7932). Raises ImportError."""
    import brotli

    return partial(_decoded, _Brotli(brotli.Decompressor()), brotli.error)


_DECODERS: Mapping[str, Callable[[], Decode]] = MappingProxyType(
    {
        "gzip": partial(_zlib, GZIP_WINDOW),
        "x-gzip": partial(_zlib, GZIP_WINDOW),
        "deflate": partial(_zlib, zlib.MAX_WBITS),
        "zstd": _zstd,
        "br": _brotli,
    }
)
_SHOWN = ("gzip", "deflate", "zstd", "br")
_SHOWN_CHARS = 40


def listed_codings(headers: Headers) -> list[str]:
    """Return the content codings of a request in lower case, without `identity`."""
    values = [value for name, value in headers if name == b"content-encoding"]
    if not values:
        return []
    codings = b",".join(values).decode("latin-1").lower().split(",")
    return [coding for each in codings if (coding := each.strip()) not in ("", "identity")]


def decoder_for(headers: Headers) -> Decode | None:
    """Return the decoder of a request body, or None for a plain one. Raises UnsupportedEncoding."""
    codings = listed_codings(headers)
    if not codings:
        return None
    if len(codings) == 1 and (new_decoder := _DECODERS.get(codings[0])) is not None:
        try:
            return new_decoder()
        except ImportError:
            pass
    accepted = ", ".join(filter(_is_available, _SHOWN))
    shown = ", ".join(codings)[:_SHOWN_CHARS]
    raise UnsupportedEncoding(
        f"gatepass does not read a body with content-encoding {shown!r}. Send it plain, or in one of: {accepted}.",
        accepted=accepted,
    )


def check_plain(headers: Headers) -> None:
    """Raise UnsupportedEncoding if a form is compressed. It is relayed as it arrives."""
    if codings := listed_codings(headers):
        shown = ", ".join(codings)[:_SHOWN_CHARS]
        raise UnsupportedEncoding(f"gatepass does not read a form with content-encoding {shown!r}. Send it plain.")


def _is_available(coding: str) -> bool:
    try:
        _DECODERS[coding]()
    except ImportError:
        return False
    return True
