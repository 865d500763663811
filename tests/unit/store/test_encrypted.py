import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gatepass.store.encrypted import EncryptedStore, StoreKey
from tests.unit.clock import DrivenClock
from tests.unit.store.contract import Shared, StoreContract
from tests.unit.store.memory import MemoryStore

SECRET = b"k" * 32
NAME, VALUE = "token/v1/abc", b"a token of nobody's business"


@pytest.fixture
def below():
    return MemoryStore(DrivenClock())


async def stored(below: MemoryStore, name: str = NAME) -> bytes:
    code = StoreKey(SECRET).code(name)
    return (await below.get([code])).values[code]


async def test_a_value_that_was_changed_or_cut_anywhere_is_absent(below):
    store = EncryptedStore(below, SECRET)
    await store.put(NAME, VALUE, 60.0)
    whole = await stored(below)
    flipped = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    cut = [piece for at in range(len(whole)) for piece in (whole[:at], whole[at + 1 :])]
    for wrong in (*flipped, *cut):
        await below.put(StoreKey(SECRET).code(NAME), wrong, 60.0)
        assert (await store.get([NAME])).values == {}
    await below.put(StoreKey(SECRET).code(NAME), whole, 60.0)
    assert (await store.get([NAME])).values == {NAME: VALUE}


async def test_a_value_that_was_moved_to_another_name_is_absent(below):
    store = EncryptedStore(below, SECRET)
    await store.put(NAME, VALUE, 60.0)
    await below.put(StoreKey(SECRET).code("token/v1/other"), await stored(below), 60.0)
    assert (await store.get(["token/v1/other"])).values == {}


async def test_a_value_of_another_key_is_absent(below):
    store, other = EncryptedStore(below, SECRET), EncryptedStore(below, b"x" * 32)
    await other.put(NAME, b"theirs", 60.0)
    code = StoreKey(b"x" * 32).code(NAME)
    theirs = (await below.get([code])).values[code]
    assert (await store.get([NAME])).values == {}
    await below.put(StoreKey(SECRET).code(NAME), theirs, 60.0)
    assert (await store.get([NAME])).values == {}


async def test_the_format_is_nonce_and_aes_gcm_with_an_hkdf_key_and_the_name_as_associated_data(below):
    await EncryptedStore(below, SECRET).put(NAME, VALUE, 60.0)
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"gatepass store values").derive(SECRET)
    whole = await stored(below)
    assert AESGCM(key).decrypt(whole[:12], whole[12:], NAME.encode()) == VALUE
    await EncryptedStore(below, SECRET).put(NAME, VALUE, 60.0)
    assert (await stored(below))[:12] != whole[:12], "each value has a nonce of its own"


def test_a_code_keeps_the_kind_and_differs_by_name_and_by_key(below):
    code = StoreKey(SECRET).code
    kind, _, rest = code(NAME).partition(":")
    assert (kind, len(rest)) == ("token", 32)
    others = {code("token/v1/abd"), code("lease/v1/abc"), StoreKey(b"x" * 32).code(NAME)}
    assert len({rest, *(other.partition(":")[2] for other in others)}) == 4


OTHER = b"o" * 32


async def test_invalid_key_id_in_the_store_is_not_quoted(below):
    store = EncryptedStore(below, SECRET)
    assert await store.shared_key_id() is None
    await below.put("encryption-key:current", b"\x1b[31m\xff<script>!", 60.0)
    assert await store.shared_key_id() == "not an id of a key"
    await EncryptedStore(below, OTHER).put_key_id()
    assert await store.shared_key_id() == EncryptedStore(below, OTHER).key_id != store.key_id


class TestEncryptedStore(StoreContract):
    @pytest.fixture
    def shared(self):
        clock = DrivenClock()
        store = MemoryStore(clock)
        return Shared(EncryptedStore(store, SECRET), EncryptedStore(store, SECRET), clock.advance)
