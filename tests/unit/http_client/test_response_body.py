import gzip
import zlib
from io import BytesIO

import pytest

from gatepass.errors import Fault, TransportFault
from gatepass.http_client.loop_turns import LoopTurns
from gatepass.http_client.response_body import (
    GZIP_WINDOW,
    MOST_PIECES,
    PIECE_BYTES,
    DecodedResponse,
    ZlibDecoder,
    add_piece,
    decoder_of,
    taken,
)
from tests.responses import PlayedResponse

TEXT = b"data: {}\n\n" * 50


@pytest.mark.parametrize("coding", [b"", b"identity", b" Identity "])
def test_identity_needs_no_decoder(coding):
    assert decoder_of(coding) is None


def test_decompression_bomb_is_returned_in_bounded_pieces():
    sizes = [len(piece) for piece in ZlibDecoder(GZIP_WINDOW).decode(gzip.compress(b"\0" * 10_000_000))]
    assert max(sizes) <= PIECE_BYTES
    assert sum(sizes) == 10_000_000


def test_garbage_is_a_fault_after_what_was_decoded_before_it():
    decoded = ZlibDecoder(GZIP_WINDOW).decode(gzip.compress(TEXT) + b"not gzip at all")
    assert next(decoded) == TEXT
    with pytest.raises(TransportFault, match="the compressed reply is invalid: incorrect header check") as caught:
        next(decoded)
    assert caught.value.kind is Fault.INVALID


def test_an_unknown_coding_is_quoted_as_it_was_written_or_not_at_all():
    """Otherwise the redactor, which runs later, would not find a secret in it."""
    with pytest.raises(TransportFault, match="encoded as MiNtEd-Token, which gatepass did not request"):
        decoder_of(b" MiNtEd-Token ")
    with pytest.raises(TransportFault, match="encoded as something unknown, which gatepass did not request"):
        decoder_of(b"MiNtEd-Token" * 4)


GZIPPED = ((b"content-encoding", b"gzip"),)


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        (b"gzip", gzip.compress(TEXT)),
        (b"x-gzip", gzip.compress(TEXT[:200]) + gzip.compress(TEXT[200:])),
        (b"deflate", zlib.compress(TEXT)),
    ],
)
async def test_a_coded_response_reads_as_if_it_were_not(coding: bytes, packed: bytes):
    for cut in range(len(packed) + 1):
        played = PlayedResponse(packed[:cut], packed[cut:], headers=GZIPPED)
        decoder = decoder_of(coding)
        assert decoder is not None
        response = DecodedResponse(played, decoder, LoopTurns())
        assert (response.status, response.headers) == (200, played.headers)
        assert b"".join([piece async for piece in response]) == TEXT
        await response.aclose()
        assert played.closed


async def test_truncated_gzip_response_raises_a_fault():
    response = DecodedResponse(PlayedResponse(gzip.compress(TEXT)[:-4]), ZlibDecoder(GZIP_WINDOW), LoopTurns())
    with pytest.raises(TransportFault, match="closed"):
        [piece async for piece in response]


@pytest.mark.parametrize("count", [1, MOST_PIECES, MOST_PIECES + 1, MOST_PIECES + 3])
def test_a_list_of_pieces_becomes_their_bytes(count: int) -> None:
    pieces: list[bytes | BytesIO] = []
    for number in range(count):
        add_piece(pieces, b"%d," % number)
    assert taken(pieces) == b"".join(b"%d," % number for number in range(count))
    assert pieces == []
