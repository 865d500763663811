"""The Valkey store over real sockets."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from gatepass.clock import SystemClock
from gatepass.config.model import StoreSettings
from gatepass.store import guarded
from gatepass.store.base import Store, StoreUnavailable
from gatepass.store.valkey import ValkeyStore
from gatepass.types import Secret
from tests.integration.store.responder import ODD_OF, Responder, responding
from tests.integration.transport.test_tls import AUTHORITY, server_context
from tests.unit.clock import settle
from tests.unit.store.contract import Shared, StoreContract, opened_store, unavailable
from tests.waiting import until, until_async

KEY = Secret("an-encryption-key-of-32-characters-and-more")

pytestmark = pytest.mark.usefixtures("patient")


def settings(responder: Responder, scheme: str = "valkey", **more) -> StoreSettings:
    given = {"url": f"{scheme}://127.0.0.1:{responder.port}/0", "encryption_key": KEY}
    return StoreSettings.model_validate({**given, **more})


@asynccontextmanager
async def opened(chosen: StoreSettings, count: int = 1):
    stores = [opened_store(chosen, SystemClock()) for _ in range(count)]
    try:
        yield stores
    finally:
        for store in stores:
            await store.aclose()


async def restarted(responder: Responder) -> None:
    """Every connection is closed, and our ends of them know it."""
    responder.cut()
    await until(lambda: not responder.open)
    await settle()


async def read(store: Store, name: str) -> bytes | None:
    """The value, None while the store is away."""
    try:
        return (await store.get([name])).values[name]
    except StoreUnavailable:
        return None


class TestValkeyStore(StoreContract):
    @pytest.fixture
    async def shared(self):
        async with responding() as responder, opened(settings(responder), 2) as (here, there):
            yield Shared(here, there, asyncio.sleep)


async def test_dump_of_the_server_contains_no_value_and_no_name():
    async with responding() as responder, opened(settings(responder)) as (store,):
        await store.put("token/the-recipe", b"the-token", 60.0)
        await store.count("count/the-recipe", 60.0)
        await store.lease("lease/the-recipe", "me", 60.0)
        assert {key.partition(b":")[0] for key in responder.keys} == {b"gatepass"}
        assert b"gatepass:token:" in responder.dump()
        assert b"the-token" not in responder.dump()
        assert b"the-recipe" not in responder.dump()
        assert b"the-token" not in repr(responder.received).encode()


async def test_store_uses_the_current_password_and_its_database():
    password = ["first"]
    responder = Responder(password=b"first", user=b"gate")
    async with responding(responder):
        chosen = settings(responder, username="gate", password=Secret(lambda: password[0]))
        chosen = chosen.model_copy(update={"url": f"redis://127.0.0.1:{responder.port}/3"})
        async with opened(chosen) as (store,):
            await store.put("value/one", b"x", 60.0)
            assert [b"SELECT", b"3"] in responder.received
            responder.password, password[0] = b"second", "second"
            await restarted(responder)
            assert (await store.get(["value/one"])).values == {"value/one": b"x"}


async def test_unreadable_store_password_makes_the_store_unavailable():
    def missing() -> str:
        raise ValueError("the file /run/password cannot be read")

    async with (
        responding(Responder(password=b"x")) as responder,
        opened(settings(responder, password=Secret(missing))) as (store,),
    ):
        assert "the file /run/password cannot be read" in await unavailable(store.get([]))


BOUND = "0.5 s"


@pytest.mark.parametrize(
    ("mood", "words"),
    [
        ("rude", "Connection closed"),
        ("loading", "loading the dataset"),
        ("gibberish", "Protocol"),
        ("nested", ""),
        ("huge", BOUND),
        ("mute", BOUND),
    ],
)
async def test_failing_server_makes_the_store_unavailable_until_it_recovers(mood, words, monkeypatch):
    monkeypatch.setattr(guarded, "REST_S", 0.05)
    async with responding() as responder, opened(settings(responder)) as (store,):
        await store.put("value/one", b"x", 60.0)
        if words == BOUND:
            monkeypatch.setattr(guarded, "BOUND_S", 0.5)
        responder.mood = mood
        assert words.lower() in (await unavailable(store.get(["value/one", "value/two"]))).lower()
        responder.mood = "well"
        assert await until_async(lambda: read(store, "value/one")) == b"x"


async def test_an_odd_reply_to_one_command_makes_the_store_unavailable(monkeypatch):
    monkeypatch.setattr(guarded, "REST_S", 0.0)
    async with responding() as responder, opened(settings(responder)) as (store,):
        for mood in ODD_OF:
            responder.mood = "well"
            await store.put("value/one", b"x", 60.0)
            responder.mood = mood
            await unavailable(store.count("count/one", 60.0) if mood == "odd script" else store.get(["value/one"]))


async def test_a_restarted_server_fails_no_operation():
    async with responding() as responder, opened(settings(responder)) as (store,):
        await store.put("value/one", b"x", 60.0)
        for _ in range(3):
            await restarted(responder)
            assert (await store.get(["value/one"])).values == {"value/one": b"x"}


async def test_a_request_that_is_cancelled_at_any_moment_mixes_up_no_answers():
    async with responding() as responder, opened(settings(responder)) as (store,):
        counts = await asyncio.gather(*(store.count("count/one", 60.0) for _ in range(100)))
        assert (sorted(counts), responder.connections <= 4) == ([*range(1, 101)], True)
        for index in range(20):
            await store.put(f"value/{index}", b"%d" % index, 60.0)
        for iterations in range(40):
            asking = [asyncio.create_task(store.get([f"value/{index}"])) for index in range(8)]
            for _ in range(iterations % 13):
                await asyncio.sleep(0)
            for task in asking[::2]:
                task.cancel()
            await asyncio.wait(asking)
            for index, task in enumerate(asking):
                if not task.cancelled():
                    assert task.result().values == {f"value/{index}": b"%d" % index}
        assert responder.open <= 4


@pytest.fixture
def ca_file(tmp_path):
    AUTHORITY.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


@pytest.mark.parametrize("name", ["127.0.0.1", "other.example"])
async def test_an_unknown_ca_and_a_foreign_name_are_refused(ca_file, name):
    trusted = {"ca_file": ca_file} if name == "other.example" else {}
    async with responding(context=server_context(name)) as responder:
        async with opened(settings(responder, "valkeys", network=trusted)) as (store,):
            assert "certificate" in (await unavailable(store.put("value/one", b"x", 60.0))).lower()
        assert responder.received == []


async def test_a_client_certificate_is_shown(ca_file, tmp_path):
    mine = AUTHORITY.issue_cert("gatepass.example")
    mine.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
    async with responding(context=server_context(asks=True)) as responder:
        network = {"ca_file": ca_file, "client_cert": str(tmp_path / "client.pem")}
        async with opened(settings(responder, "valkeys", network=network)) as (store,):
            await store.put("value/one", b"x", 60.0)
            assert (await store.get(["value/one"])).values == {"value/one": b"x"}
        async with opened(settings(responder, "rediss", network={"ca_file": ca_file})) as (store,):
            await unavailable(store.put("value/one", b"x", 60.0))


def test_a_file_that_cannot_be_loaded_is_reported_when_the_store_is_opened():
    chosen = settings(Responder(port=1), "valkeys", network={"ca_file": "/none.pem"})
    with pytest.raises(OSError, match="No such file"):
        ValkeyStore(chosen, SystemClock())
