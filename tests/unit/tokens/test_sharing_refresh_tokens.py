"""Refresh tokens that several processes use, each of which ends with its use."""

import asyncio
from urllib.parse import parse_qs

import pytest

from gatepass.tokens import build_source
from gatepass.tokens.sharing import SharedRefreshTokenStore
from gatepass.types import Secret
from tests.unit.clock import DrivenClock
from tests.unit.store.memory import MemoryStore
from tests.unit.tokens.fleet import OwnClock, Wire
from tests.unit.tokens.scripted import Reply, ScriptedIssuer, answer, failure_of, oauth2, refused


def refreshing(**settings):
    return oauth2(grant_type="refresh_token", refresh_token=Secret("refresh-0"), **settings)


class Rotating(ScriptedIssuer):
    """Each refresh token is good for one use; a second use of one ends them all."""

    def __init__(self, clock):
        super().__init__(clock)
        self.current: str | None = "refresh-0"
        self.thefts = 0

    async def _played(self, request):
        used = parse_qs(request.body.decode())["refresh_token"][0]
        self.requests.append(request)
        await asyncio.sleep(0)
        if used != self.current:
            self.current = None
            self.thefts += 1
            return Reply(self, refused("invalid_grant", 400))
        self.current = f"refresh-{len(self.requests)}"
        return Reply(self, answer({"access_token": "a", "expires_in": 60, "refresh_token": self.current}))


@pytest.fixture
def clock():
    return DrivenClock()


@pytest.fixture
def store(clock):
    return MemoryStore(clock)


def wired(store, clock):
    return Wire(store, OwnClock(clock, 0.0))


async def test_a_text_is_kept_for_all_with_the_same_refresh_tokens(clock, store):
    here = SharedRefreshTokenStore(refreshing(), store, clock)
    there = SharedRefreshTokenStore(refreshing(scope="another"), store, clock)
    other = SharedRefreshTokenStore(refreshing(client_id="another"), store, clock)
    assert await here.get() is None
    await here.put("the newest ✓")
    assert await there.get() == "the newest ✓"
    assert await other.get() is None


async def test_credentials_that_sign_in_to_different_accounts_share_no_refresh_token(clock, store):
    def tenant(name):
        login = {"grant_type": "password", "username": "svc", "password": Secret("a-password")}
        return SharedRefreshTokenStore(oauth2(**login, extra={"tenant": Secret(name)}), store, clock)

    await tenant("A").put("of A")
    assert (await tenant("A").get(), await tenant("B").get()) == ("of A", None)


async def test_a_lock_that_is_not_free_in_time_is_reported(clock, store):
    one, two = (SharedRefreshTokenStore(refreshing(), store, clock) for _ in range(2))
    async with one.exclusive(1.0):
        waiting = asyncio.create_task(two.exclusive(1.0).__aenter__())
        await clock.advance(1.1)
        failure = await failure_of(lambda: waiting.result())
        assert "another process uses the refresh token" in failure.reason


async def test_without_the_store_no_refresh_token_is_used(clock, store):
    wire = wired(store, clock)
    wire.state = "down"
    refresh_store = SharedRefreshTokenStore(refreshing(), wire, clock)
    for work in (refresh_store.get(), refresh_store.put("x"), refresh_store.exclusive(1.0).__aenter__()):
        failure = await failure_of(work)
        assert failure.reason == (
            "the store with the refresh token is unavailable, and a second use of an old one would revoke all "
            "(no connection)"
        )


async def test_four_processes_use_each_refresh_token_once(clock, store):
    issuer = Rotating(clock)
    sources = [
        build_source("corp", refreshing(), issuer, clock, SharedRefreshTokenStore(refreshing(), store, clock))
        for _ in range(4)
    ]
    fetching = [asyncio.create_task(source.fetch()) for source in sources for _ in range(2)]
    await clock.advance(5.0)
    assert {task.result().text for task in fetching} == {"a"}
    assert (issuer.thefts, len(issuer.requests)) == (0, 8)
