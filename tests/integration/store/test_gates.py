"""Two Gates of one configuration that share a server."""

from __future__ import annotations

import asyncio
import logging

from gatepass.clock import SystemClock
from gatepass.config.model import Config
from gatepass.proxy.app_state import AppState, create_app_state
from gatepass.store.choice import open_store
from gatepass.store.memory import MemoryStore
from tests.integration.gateway import gateway
from tests.integration.store.minting import Minting, minting
from tests.integration.store.responder import Responder, responding
from tests.waiting import until

KEY = "an-encryption-key-of-32-characters-and-more"
PASSWORD = "password-of-the-store"


def built(issuer: Minting, responder: Responder) -> AppState:
    store = {
        "url": f"valkey://127.0.0.1:{responder.port}",
        "password": PASSWORD,
        "encryption_key": KEY,
        "timeout_s": 2.0,
    }
    config = Config.model_validate(issuer.configuration(store=store))
    clock = SystemClock()
    return create_app_state(config, clock, open_store(config.store, None, clock))


async def test_two_gates_make_one_call_and_close_what_they_opened():
    async with minting(delay_s=0.2) as issuer, responding(Responder(password=PASSWORD.encode())) as responder:
        gates = [built(issuer, responder) for _ in range(2)]
        for gate in gates:
            gate.start()
        await until(lambda: all(gate.ready for gate in gates))
        tokens = {(await gate.holders["corp"].token()).text for gate in gates}
        assert (tokens, len(issuer.calls)) == ({"opaque-token-1"}, 1)
        for gate in gates:
            await gate.aclose()
        await until(lambda: responder.open == 0)
        assert len(asyncio.all_tasks()) < 20


async def test_a_gate_whose_store_is_away_starts_serves_and_stops(caplog):
    caplog.set_level(logging.INFO)
    responder = Responder(password=PASSWORD.encode())
    async with responding(responder):
        pass
    async with minting() as issuer:
        gate = built(issuer, responder)
        gate.start()
        await until(lambda: gate.ready)
        await gate.aclose()
    assert [record.message for record in caplog.records].count("store_unavailable") == 1


async def test_the_secrets_of_a_store_are_masked():
    async with minting() as issuer, responding() as responder:
        gate = built(issuer, responder)
        assert gate.redactor.mask(f"{KEY} {PASSWORD}") == "*** ***"
        await gate.aclose()


async def test_without_a_store_a_process_has_memory_alone():
    async with minting() as issuer, gateway(**issuer.configuration()) as served:
        assert isinstance(served.gate.store, MemoryStore)
        assert (await served.ask().answer()).status == 200
