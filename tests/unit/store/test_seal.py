from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from hypothesis import given
from hypothesis import strategies as st

from gatepass.store.seal import NONCE_BYTES, TAG_BYTES, Seal

KEY = bytes(range(32))
VALUE = b"a token of nobody's business"


@given(st.binary(max_size=300), st.text(max_size=20), st.binary(min_size=1, max_size=40))
def test_what_was_closed_opens_again(value, name, key):
    assert Seal(key).open(name, Seal(key).close(name, value)) == value


def test_a_closed_value_shows_nothing_and_never_looks_the_same_twice():
    first, second = (Seal(KEY).close("token/x", VALUE) for _ in range(2))
    assert first != second
    assert len(first) == 1 + NONCE_BYTES + len(VALUE) + TAG_BYTES
    for at in range(len(VALUE) - 4):
        assert VALUE[at : at + 4] not in first


def test_a_change_of_any_bit_and_a_cut_anywhere_is_noticed():
    closed = Seal(KEY).close("token/x", VALUE)
    for at in range(len(closed)):
        changed = bytearray(closed)
        changed[at] ^= 1
        assert Seal(KEY).open("token/x", bytes(changed)) is None
        assert Seal(KEY).open("token/x", closed[:at]) is None
        assert Seal(KEY).open("token/x", closed[at + 1 :]) is None


def test_a_value_opens_under_its_own_name_and_key_alone():
    closed = Seal(KEY).close("token/x", VALUE)
    assert Seal(KEY).open("token/y", closed) is None
    assert Seal(KEY[1:]).open("token/x", closed) is None


def test_a_value_of_another_version_does_not_open():
    seal = Seal(KEY)
    body = b"\x02" + b"n" * NONCE_BYTES + b"hidden"
    assert seal.open("token/x", body + seal._tag("token/x", body)) is None


def test_the_stream_is_the_one_of_sp_800_108_as_another_library_makes_it():
    seal, nonce = Seal(KEY), b"n" * NONCE_BYTES
    for size_bytes in (1, 31, 32, 33, 5000):
        other = KBKDFHMAC(
            algorithm=hashes.SHA256(),
            mode=Mode.CounterMode,
            length=size_bytes,
            rlen=4,
            llen=4,
            location=CounterLocation.BeforeFixed,
            label=b"gatepass store stream",
            context=nonce,
            fixed=None,
        )
        assert seal._keystream(nonce, size_bytes) == other.derive(seal._stream)


def test_a_name_keeps_its_kind_and_tells_nothing_else():
    named = Seal(KEY).name("token/v1/abc")
    kind, _, code = named.partition(":")
    assert (kind, len(code)) == ("token", 32)
    assert named == Seal(KEY).name("token/v1/abc")
    others = {Seal(KEY).name("token/v1/abd"), Seal(KEY).name("lease/v1/abc"), Seal(b"k").name("token/v1/abc")}
    assert len({code, *(other.partition(":")[2] for other in others)}) == 4


def test_it_does_not_print_its_key():
    assert repr(Seal(KEY)) == "Seal(hidden)"
