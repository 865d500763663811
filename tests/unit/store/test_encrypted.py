import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gatepass.store.encrypted import StoreKey

SECRET = b"k" * 32
NAME, VALUE = "token/v1/abc", b"a token of nobody's business"


def test_a_value_that_was_changed_or_cut_anywhere_is_absent():
    key = StoreKey(SECRET)
    whole = key.seal(NAME, VALUE)
    flipped = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    cut = [piece for at in range(len(whole)) for piece in (whole[:at], whole[at + 1 :])]
    assert {key.open(NAME, wrong) for wrong in (*flipped, *cut)} == {None}
    assert key.open(NAME, whole) == VALUE


@pytest.mark.parametrize(("secret", "name"), [(SECRET, "token/v1/other"), (b"x" * 32, NAME)])
def test_a_value_of_another_name_or_key_is_absent(secret, name):
    assert StoreKey(secret).open(name, StoreKey(SECRET).seal(NAME, VALUE)) is None


def test_the_format_is_nonce_and_aes_gcm_with_an_hkdf_key_and_the_name_as_associated_data():
    whole = StoreKey(SECRET).seal(NAME, VALUE)
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"gatepass store values").derive(SECRET)
    assert AESGCM(key).decrypt(whole[:12], whole[12:], NAME.encode()) == VALUE
    assert StoreKey(SECRET).seal(NAME, VALUE)[:12] != whole[:12], "each value has a nonce of its own"


def test_a_code_keeps_the_kind_and_differs_by_name_and_by_key():
    code = StoreKey(SECRET).code
    kind, _, rest = code(NAME).partition(":")
    assert (kind, len(rest)) == ("token", 32)
    others = {code("token/v1/abd"), code("lease/v1/abc"), StoreKey(b"x" * 32).code(NAME)}
    assert len({rest, *(other.partition(":")[2] for other in others)}) == 4
