"""Two Gates of one configuration that share a server."""

import asyncio
import logging
from functools import partial

import pytest

from gatepass.clock import SystemClock
from gatepass.config.model import Config
from gatepass.proxy.app_state import AppState, create_app_state
from gatepass.server.pages import status_of
from gatepass.store.guarded import open_store
from tests.integration.gateway import serving
from tests.integration.store.minting import Minting, minting
from tests.integration.store.responder import Responder, responding
from tests.integration.test_ui import ACCESS, KEYS, get, post
from tests.waiting import until

KEY = "an-encryption-key-of-32-characters-and-more"
PASSWORD = "password-of-the-store"

pytestmark = pytest.mark.usefixtures("patient")


def built(issuer: Minting, responder: Responder, **settings: str) -> AppState:
    store = {
        "url": f"valkey://127.0.0.1:{responder.port}",
        "password": PASSWORD,
        "encryption_key": KEY,
        **settings,
    }
    config = Config.model_validate(issuer.configuration(store=store))
    clock = SystemClock()
    return create_app_state(config, clock, open_store(config.store, clock))


async def test_two_processes_make_one_token_call_and_close_their_connections():
    async with minting(delay_s=0.2) as issuer, responding(Responder(password=PASSWORD.encode())) as responder:
        states = [built(issuer, responder) for _ in range(2)]
        for state in states:
            state.start()
        await until(lambda: all(state.ready for state in states))
        tokens = {(await state.holders["corp"].token()).text for state in states}
        assert (tokens, len(issuer.calls)) == ({"opaque-token-1"}, 1)
        for state in states:
            await state.aclose()
        await until(lambda: responder.open == 0)
        assert len(asyncio.all_tasks()) < 20


async def test_a_process_that_does_not_share_reports_it_in_log_status_and_metrics(caplog):
    caplog.set_level(logging.INFO)
    async with minting() as issuer, responding(Responder(password=PASSWORD.encode())) as responder:
        states = [built(issuer, responder), built(issuer, responder, encryption_key=KEY[::-1])]
        states.append(built(issuer, responder, password="wrong-password"))
        for state, expected in zip(states, ("up", "unreadable", "down"), strict=True):
            state.start()
            await until(partial(_is_checked, state))
            assert (store := status_of(state).store) is not None
            assert (store.state, store.through) == (expected, f"valkey://127.0.0.1:{responder.port}")
            assert f"gatepass_store_up {float(expected == 'up')}" in state.metrics.exposition().decode()
        reasons = [getattr(status_of(state).store, "reason", None) for state in states]
        assert len(issuer.calls) == 3, "each works alone"
        for state in states:
            await state.aclose()
    logged = {record.message: record.fields for record in caplog.records if record.name == "gatepass.store"}
    assert logged["sharing_tokens"]["credentials"] == ["corp"]
    assert [logged[event]["reason"] for event in ("store_unreadable", "store_unavailable")] == reasons[1:]
    assert not any(secret in repr(logged) for secret in (KEY, KEY[::-1], PASSWORD, "wrong-password"))


def _is_checked(state: AppState) -> bool:
    return state.ready and getattr(status_of(state).store, "state", "") != "unchecked"


async def test_no_client_and_no_page_has_the_password_that_the_server_quotes():
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    async with responding(Responder(PASSWORD.encode(), mood="quoting")) as responder:
        store = {"url": f"valkey://127.0.0.1:{responder.port}", "password": PASSWORD, "encryption_key": KEY}
        mcp = {"tools": {"url": "http://127.0.0.1:9/mcp"}}
        blocks = {"server": {"drain_timeout_s": 0, "ui": True}, "store": store, "mcp": mcp, "access": ACCESS}
        config, clock = Config.model_validate(blocks), SystemClock()
        async with serving(create_app_state(config, clock, open_store(config.store, clock))) as gp:
            session = {"authorization": f"Bearer {KEYS['caller']}", "mcp-session-id": "abc"}
            client = await post(gp, "/mcp/tools", message, **session)
            status = await get(gp, "/status", authorization=f"Bearer {KEYS['viewer']}")
            page = await get(gp, "/ui/api/status", authorization=f"Bearer {KEYS['viewer']}")
    assert client.error["data"]["code"] == "mcp_sessions_unavailable"
    assert "cannot run" not in client.body.decode()
    for shown in (status, page):
        assert "cannot run: AUTH ***" in shown.body.decode()
        assert PASSWORD not in shown.body.decode()
