"""Compressed request bodies: every coding in any pieces, its limit, and what is not one body."""

import gzip
import random
import sys
import tracemalloc
import zlib

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.errors import BodyTooLarge, InvalidRequest, UnsupportedEncoding
from gatepass.proxy import content_coding
from gatepass.proxy.content_coding import PIECE_BYTES, check_plain, decoder_for

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CODINGS = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstd.compress, "br": brotli.compress}
MIB = 1 << 20
each_coding = pytest.mark.parametrize("coding", CODINGS)


def fields(*values):
    return tuple((b"content-encoding", value.encode()) for value in values)


def decoded(coding, body, limit_bytes=MIB):
    decoder = decoder_for(fields(*([coding] if isinstance(coding, str) else coding)))
    assert decoder is not None
    return decoder(body, limit_bytes)


@given(
    st.sampled_from(list(CODINGS)), st.binary(max_size=200), st.integers(1, 3_000), st.sampled_from([1, 7, 64, 4096])
)
def test_a_body_is_read_in_pieces_of_any_size(coding, text, times, piece_bytes):
    plain = text * times
    before, content_coding.CODED_BYTES = content_coding.CODED_BYTES, piece_bytes
    try:
        assert decoded(coding, CODINGS[coding](plain)) == plain
    finally:
        content_coding.CODED_BYTES = before


@each_coding
def test_a_large_body_that_does_not_compress_is_read(coding):
    plain = random.Random(1).randbytes(MIB)
    assert decoded(coding, CODINGS[coding](plain)) == plain


@each_coding
@pytest.mark.parametrize("limit_bytes", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, MIB])
def test_the_limit_is_exact(coding, limit_bytes):
    assert decoded(coding, CODINGS[coding](b"x" * limit_bytes), limit_bytes) == b"x" * limit_bytes
    with pytest.raises(BodyTooLarge, match=str(limit_bytes)):
        decoded(coding, CODINGS[coding](b"x" * (limit_bytes + 1)), limit_bytes)


@each_coding
def test_a_bomb_is_refused_before_it_is_held(coding):
    bomb = CODINGS[coding](bytes(256 * MIB))
    assert len(bomb) < MIB
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            decoded(coding, bomb)
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


@each_coding
def test_what_is_not_one_body_is_invalid(coding):
    packed = CODINGS[coding](b"hello " * 100)
    for end in range(1, len(packed)):
        with pytest.raises(InvalidRequest, match="cannot be read"):
            decoded(coding, packed[:end])
    for body in (packed + b"x", packed + packed, packed + bytes(70_000), b"{}", b'{"model":"m"}' * 9):
        with pytest.raises(InvalidRequest, match="cannot be read"):
            decoded(coding, body)


def test_a_frame_that_needs_a_large_window_is_refused():
    stream = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 24})
    with pytest.raises(InvalidRequest, match="too much memory"):
        decoded("zstd", stream.compress(b"x") + stream.flush())


@pytest.mark.parametrize("values", [(), ("",), ("identity",), (" Identity ,",), ("identity", "identity")])
def test_a_plain_body_needs_no_decoder(values):
    assert decoder_for(fields(*values)) is None
    check_plain(fields(*values))


@pytest.mark.parametrize("values", [("GZIP",), (" x-gzip ",), ("identity, gzip",), ("identity", "gzip")])
def test_a_coding_is_found_however_it_is_written(values):
    assert decoded(values, gzip.compress(b"{}")) == b"{}"


@pytest.mark.parametrize("values", [("compress",), ("gzip, gzip",), ("gzip", "br"), ("x" * 5000,)])
def test_an_unknown_coding_and_several_are_refused(values):
    with pytest.raises(UnsupportedEncoding) as caught:
        decoder_for(fields(*values))
    assert caught.value.accepted == "gzip, deflate, zstd, br"
    assert len(caught.value.message) < 200


def test_without_its_library_a_coding_is_refused_and_not_named(monkeypatch):
    for module in ("brotli", "backports.zstd", "compression.zstd"):
        monkeypatch.setitem(sys.modules, module, None)
    for package in ("backports", "compression"):
        if package in sys.modules:
            monkeypatch.delattr(sys.modules[package], "zstd", raising=False)
    for coding in ("br", "zstd"):
        with pytest.raises(UnsupportedEncoding, match="in one of: gzip, deflate") as caught:
            decoder_for(fields(coding))
        assert caught.value.accepted == "gzip, deflate"


@each_coding
def test_a_compressed_form_is_refused(coding):
    with pytest.raises(UnsupportedEncoding, match=coding) as caught:
        check_plain(fields(coding))
    assert caught.value.accepted == "identity"
