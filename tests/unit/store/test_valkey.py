import pytest
from valkey.exceptions import ResponseError

from gatepass.config.model import StoreSettings
from gatepass.store.base import StoreUnavailable
from gatepass.store.valkey import REASON_CHARS, ValkeyStore
from gatepass.types import Secret
from tests.unit.clock import DrivenClock

SETTINGS = StoreSettings(url="valkey://127.0.0.1:1", encryption_key=Secret("k" * 32))


async def failed_with(said: str) -> str:
    store = ValkeyStore(SETTINGS, DrivenClock())
    with pytest.raises(StoreUnavailable) as failure:
        async with store._connected():
            raise ResponseError(said)
    await store.aclose()
    return str(failure.value)


async def test_the_words_of_a_server_reach_the_mask_whole():
    secret = "the-password-of-the-store"
    assert secret in await failed_with(f"{'x' * 190} {secret}")


async def test_words_that_are_cut_end_before_what_may_be_half_a_secret():
    secret = "the-password-of-the-store"
    reason = await failed_with(f"{'word ' * (REASON_CHARS // 5 - 5)}{secret}")
    assert len(reason) <= REASON_CHARS + 2
    assert "the-p" not in reason
