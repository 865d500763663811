import gzip
import zlib

import pytest

from gatepass.errors import Fault, TransportFault
from gatepass.transport.coding import PIECE_BYTES, decoder_of

TEXT = b"data: {}\n\n" * 50


@pytest.mark.parametrize("coding", [None, b"", b"identity", b" Identity "])
def test_identity_needs_no_decoder(coding):
    assert decoder_of(coding) is None


@pytest.mark.parametrize(("coding", "packed"), [(b"gzip", gzip.compress(TEXT)), (b"deflate", zlib.compress(TEXT))])
def test_every_split_point_decodes_to_the_same(coding, packed):
    for cut in range(len(packed) + 1):
        decoder = decoder_of(coding)
        assert decoder is not None
        out = b"".join([*decoder.decode(packed[:cut]), *decoder.decode(packed[cut:])])
        decoder.finish()
        assert out == TEXT


def test_gzip_members_may_follow_each_other():
    decoder = decoder_of(b"gzip")
    assert decoder is not None
    assert b"".join(decoder.decode(gzip.compress(b"one") + gzip.compress(b"two"))) == b"onetwo"


def test_a_bomb_comes_in_bounded_pieces():
    decoder = decoder_of(b"gzip")
    assert decoder is not None
    sizes = [len(piece) for piece in decoder.decode(gzip.compress(b"\0" * 10_000_000))]
    assert max(sizes) <= PIECE_BYTES
    assert sum(sizes) == 10_000_000


def test_garbage_is_a_fault():
    decoder = decoder_of(b"gzip")
    assert decoder is not None
    with pytest.raises(TransportFault) as caught:
        list(decoder.decode(b"not gzip at all"))
    assert caught.value.fault is Fault.INVALID


def test_a_coding_that_broke_off_is_a_fault():
    decoder = decoder_of(b"gzip")
    assert decoder is not None
    list(decoder.decode(gzip.compress(TEXT)[:-4]))
    with pytest.raises(TransportFault) as caught:
        decoder.finish()
    assert caught.value.fault is Fault.CLOSED


def test_an_unknown_coding_is_a_fault_that_names_it():
    with pytest.raises(TransportFault, match="zstd"):
        decoder_of(b"zstd")
