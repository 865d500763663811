"""Requests, status and log of one holder: named cases beside the state machine of test_holder_machine.py."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from gatepass.errors import TokenUnavailable
from gatepass.observability.redaction import Redactor
from gatepass.tokens import FetchFailure, Token, TokenHolder, TokenReissued, TokenUser, WaitBudget
from gatepass.tokens.issuer_error import REFUSED, WRONG_URL
from gatepass.tokens.lifetime import Freshness, LifetimeSource, TokenKind
from gatepass.types import Secret
from tests.unit.clock import DrivenClock, settle
from tests.unit.tokens.scripted import (
    SECRET,
    Broken,
    Hang,
    Mint,
    answer,
    http_json,
    kept,
    outcomes,
    refused,
    signed,
    static,
)
from tests.unit.tokens.statuses import FRESH

REPAIR = ". After a repair at the issuer, run `gatepass reload`: it fetches at once."
CHECK = ". Check credentials.corp.client_id, credentials.corp.client_secret or credentials.corp.client_auth"
RELOAD = f". A new secret in the configuration file requires `gatepass reload`{CHECK}{REPAIR}"
UNCLEAR = RELOAD.replace(CHECK, ". Check the client and the secret in credentials.corp")
LIMITS = (
    ". gatepass retries by itself. If the failure persists, send the reason in the message to the owner of the issuer"
    f"{REPAIR}"
)
CHECK_URL = ". Check credentials.corp.token_url."
DOWN = (
    "no connection to sso.example (refused). Check the host and port in credentials.corp.token_url, whether it is up,"
    " and whether this network needs network.proxy"
)
WALL_S = DrivenClock().wall()
ONE_JWT = Mint(None, signed(iat=WALL_S, exp=WALL_S + 300))


class OddSource:
    """A source of a test's own. Its secrets cannot be looked at while it is `broken`."""

    broken = False

    def __init__(self, *results: Token | BaseException) -> None:
        self.results = list(results)
        self.fetches = 0

    def secrets(self) -> tuple[Secret, ...]:
        if self.broken:
            raise PermissionError(13, "Permission denied")
        return ()

    async def fetch(self) -> Token:
        self.fetches += 1
        result = self.results.pop(0) if self.results else FetchFailure("nothing more")
        await asyncio.sleep(0)
        if isinstance(result, BaseException):
            raise result
        return result


@asynccontextmanager
async def over(source: OddSource, clock: DrivenClock) -> AsyncIterator[TokenHolder]:
    """A started holder over `source`, closed at the end."""
    holder = TokenHolder("odd", source, clock, Redactor(), WaitBudget(10.0, random_fraction=lambda: 0.0))
    holder.start()
    yield holder
    await holder.aclose()


# --- without failures ----------------------------------------------------------------------------------------------


async def test_the_first_fetch_begins_at_the_start_and_there_is_one_refresh_task():
    it = kept()
    assert (it.holder.current(), it.holder.usable, it.holder.status().state) == (None, False, "none")
    assert it.holder.reject("abc")
    async with it:
        it.holder.start()
        await settle()
        assert [task.get_name() for task in asyncio.all_tasks()].count("refresh of corp") == 1
        token = it.holder.current()
        assert token is not None
        with pytest.raises(StopIteration) as caught:  # a request with a fresh token does not yield
            it.holder.token().send(None)
        assert caught.value.value is token


@pytest.mark.parametrize(("jitter", "due_s"), [(0.0, 240.0), (1.0, 225.0)])
async def test_it_refreshes_at_80_percent_of_the_life_without_traffic_or_waiting(jitter, due_s):
    async with kept(Mint(), Mint(delay_s=30.0), jitter=jitter) as it:
        await it.clock.advance(due_s - 0.1)
        assert it.issuer.calls == 1
        await it.clock.advance(0.2)
        assert it.issuer.calls == 2
        assert (await it.holder.token()).text == "token-1"
        await it.clock.advance(30.0)
        assert (await it.holder.token()).text == "token-2"


@pytest.mark.parametrize(("life", "for_s"), [(0.3, 30), (2, 30), (5, 300), (300, 3600)])
async def test_each_life_costs_one_fetch_and_at_most_one_a_second(life, for_s):
    async with kept(otherwise=Mint(life)) as it:
        await it.clock.advance(for_s)
        assert it.issuer.calls == 1 + int(for_s / max(1.0, life * 0.8))
        assert it.holder.status().failures == 0


@pytest.mark.parametrize("state", ["cold", "expired", "rejected"])
async def test_five_hundred_requests_cause_one_fetch_that_outlives_those_that_leave(state):
    async with kept(*([] if state == "cold" else [Mint()]), otherwise=Mint(delay_s=1.0)) as it:
        await settle()
        if state == "expired":
            it.clock.suspend(296.0)
        elif state == "rejected":
            assert [it.holder.reject("token-1") for _ in range(500)] == [True] * 500
        text = "token-1" if state == "cold" else "token-2"
        tasks = await it.asked(500, instead_of="token-1" if state == "rejected" else None)
        for task in tasks[:300]:
            task.cancel()
        await it.clock.advance(1.0)
        assert await outcomes(tasks) == ["CancelledError"] * 300 + [text] * 200
        assert it.issuer.minted == ["token-1", "token-2"][: 1 if state == "cold" else 2]
        assert it.holder.reject("an-older-token"), "a late rejection"
        assert (await it.holder.token(instead_of="an-older-token")).text == text


async def test_after_a_suspend_the_refresh_task_notices_within_5_seconds_without_traffic():
    async with kept() as it:
        await it.clock.advance(10.0)
        it.clock.suspend(3600.0, delays_timers=True)  # as where timers use CLOCK_MONOTONIC
        assert not it.holder.usable
        await it.clock.advance(5.0)
        assert it.holder.usable


async def test_a_jump_of_our_wall_clock_changes_no_life():
    async with kept() as it:
        await it.clock.advance(100.0)
        for jump_s in (-86_400.0, 2 * 86_400.0):
            it.clock.jump_wall(jump_s)
            assert it.holder.status().expires_in_s == 195.0
        assert it.issuer.calls == 1


# --- tokens that come again ------------------------------------------------------------------------------------------


async def test_a_token_that_the_issuer_repeats_makes_no_refresh_loop():
    """A metadata server gives the same token until 30 s before its end."""
    async with kept() as it:
        for moment in range(300):
            left = 300 - moment
            it.issuer.otherwise = Mint(left, text="old") if left > 30 else Mint(300, text="new")
            await it.clock.advance(1.0)
        assert [round(moment) for moment in it.issuer.started_s] == [1000, 1240, 1270]
        assert (await it.holder.token()).text == "new"


@pytest.mark.parametrize("next_reply", [Mint(), ONE_JWT])
async def test_near_the_end_of_a_jwt_that_the_issuer_repeats_requests_wait_for_the_next_one(next_reply):
    async with kept(otherwise=ONE_JWT) as it:
        while it.clock.now() < 1290.0 or it.holder.usable:
            await it.clock.advance(0.25)
        assert it.clock.now() <= 1300.0, "its end has not moved"
        calls, fetches, tasks = it.issuer.calls, it.holder.status().fetches, await it.asked(5)
        await it.clock.advance(1.5)
        assert not any(task.done() for task in tasks)
        it.issuer.otherwise = next_reply
        await it.clock.advance(4.0)
        is_new = next_reply is not ONE_JWT
        assert await outcomes(tasks) == [it.issuer.minted[-1] if is_new else "TokenUnavailable"] * 5
        assert (it.holder.status().failures == 0) is is_new
        assert not is_new or it.holder.status().fetches == fetches + 1
        assert it.issuer.calls - calls <= 5
        assert is_new or "expired on arrival" in str(tasks[0].exception())


# --- keys and secrets ------------------------------------------------------------------------------------------------


async def test_a_key_is_read_once_replaced_within_5_seconds_and_kept_while_its_file_is_missing():
    key = ["key-of-yesterday"]

    def read() -> str:
        if not key:
            raise ValueError("the file cannot be read")
        return key[0]

    async with kept(settings=static(Secret(read))) as it:
        await it.clock.advance(3600.0)
        status = it.holder.status()
        assert (status.state, status.kind, status.lifetime_source) == ("fresh", TokenKind.KEY, LifetimeSource.NONE)
        assert (status.expires_in_s, status.next_try_in_s, status.fetches) == (None, None, 1)
        key.clear()
        await it.clock.advance(60.0)
        assert (await it.holder.token()).text == "key-of-yesterday"
        assert it.holder.status().failing
        key.append("key-of-today")
        await it.clock.advance(4.0)
        assert (await it.holder.token()).text == "key-of-today"
        assert it.holder.reject("key-of-today")
        with pytest.raises(TokenReissued):
            await it.holder.token(instead_of="key-of-today")
        assert not it.holder.reject("key-of-today")


async def test_refusals_do_not_lock_the_account_and_a_new_secret_is_tried_within_5_seconds():
    secret = ["wrong-secret-1"]
    async with kept(client_secret=Secret(lambda: secret[0])) as it:
        it.issuer.accepts = "right-secret"
        await it.clock.advance(100.0)
        secret[0] = "wrong-secret-2"
        await it.clock.advance(500.0)
        assert [round(moment - 1000) for moment in it.issuer.started_s] == [0, 30, 90, 102, 132, 192, 312, 552]
        secret[0] = "right-secret"
        await it.clock.advance(5.0)
        assert it.holder.usable


def rotating(kind: str, secret: list[str]) -> dict[str, Any]:
    """Settings of a credential with a secret that is read for each use."""
    found = Secret(lambda: secret[0])
    if kind == "login":
        return {"settings": http_json(form={"password": found})}
    return {"client_secret": found}


@pytest.mark.parametrize("delay_s", [0.5, 3.0])
@pytest.mark.parametrize("kind", ["client", "login"])
async def test_requests_get_a_token_of_the_secret_that_was_rotated_during_their_fetch(kind: str, delay_s: float):
    secret = ["secret-of-yesterday"]
    async with kept(replace(refused(), delay_s=delay_s), **rotating(kind, secret)) as it:
        tasks = await it.asked(20)
        secret[0] = "secret-of-today"
        await it.clock.advance(delay_s)
        assert await outcomes(tasks) == ["token-1"] * 20
        assert [b"secret-of-today" in one.body for one in it.issuer.requests] == [False, True]
        assert not it.holder.status().failing


@pytest.mark.parametrize(("changes", "calls"), [(0, 1), (1, 2), (3, 4)])
async def test_each_change_of_the_secret_during_a_refused_fetch_causes_one_more_attempt(changes: int, calls: int):
    secret = ["secret-0"]
    replies = [replace(refused(), delay_s=0.5)] * 9
    async with kept(*replies, client_secret=Secret(lambda: secret[0])) as it:
        tasks = await it.asked(3)
        for number in range(changes):
            await it.clock.advance(0.25)
            secret[0] = f"secret-{number + 1}"
            await it.clock.advance(0.25)
        await it.clock.advance(0.5)
        assert await outcomes(tasks) == ["TokenUnavailable"] * 3
        await it.clock.advance(20.0)
        assert it.issuer.calls == calls


async def test_a_secret_that_is_rotated_twice_ends_an_outage_for_the_requests_that_wait():
    secret = ["secret-1"]
    half = replace(refused(), delay_s=3.0)
    async with kept(refused(), half, client_secret=Secret(lambda: secret[0])) as it:
        await it.clock.advance(1.0)
        secret[0] = "secret"
        await it.clock.advance(3.5)
        assert (it.issuer.calls, it.holder.status().failing) == (2, True)
        secret[0] = "secret-2"
        tasks = await it.asked(5)
        await it.clock.advance(0.9)
        assert await outcomes(tasks) == ["token-1"] * 5


async def test_retry_fetches_at_once_and_the_pauses_begin_again():
    async with kept(refused(), refused(), refused(), refused(), Mint()) as it:
        await it.clock.advance(95.0)  # two refusals later the pause is 120 s
        assert it.issuer.calls == 3
        assert it.holder.retry()
        assert it.holder.retry(), "a fetch in progress continues alone"
        await settle()
        assert it.issuer.calls == 4
        with pytest.raises(TokenUnavailable, match="next attempt in 30 s"):
            await it.holder.token()
        assert it.holder.retry()
        await settle()
        assert (await it.holder.token()).text == "token-1"
        assert not it.holder.retry()
        await settle()
        assert it.issuer.calls == 5


async def test_retry_replaces_a_token_that_an_upstream_rejects():
    chat, base_url = TokenUser("chat", "m", "https://h/v1"), "https://h/v1"
    async with kept() as it:
        token = await it.holder.token()
        assert it.holder.reject(token.text, chat)
        renewed = await it.holder.token(token.text)
        it.holder.rejected_again(renewed, chat)
        await it.clock.advance(90.0)
        assert (it.issuer.calls, it.holder.rejection_age_s("chat", base_url)) == (2, 90.0)
        assert it.holder.retry()
        await settle()
        assert it.issuer.calls == 3
        it.holder.confirm(await it.holder.token(renewed.text), chat)
        assert it.holder.rejection_age_s("chat", base_url) is None
        assert not it.holder.retry()


# --- errors, status and log ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "after_s", "message", "retry_after_s", "should_retry"),
    [
        (
            refused(),
            2.5,
            f"{REFUSED}sso.example answered 401: invalid_client: No; next attempt in 28 s{RELOAD}",
            27.5,
            False,
        ),
        (
            refused("not_found", 404),
            0.0,
            f"{WRONG_URL}sso.example answered 404: not_found: No; next attempt in 30 s{CHECK_URL}",
            30.0,
            False,
        ),
        (
            answer({"error": "slow_down"}, 429, (b"retry-after", b"600")),
            0.0,
            f"sso.example answered 429: slow_down; next attempt in 600 s{LIMITS}",
            600.0,
            None,
        ),
        (
            answer({"code": 1}),
            0.0,
            f"sso.example answered 200 with an error: code 1; next attempt in 30 s{UNCLEAR}",
            30.0,
            None,
        ),
        (Broken(), 3.0, f"{DOWN.replace('. ', '; next attempt in 1 s. ')}.", 1.0, None),
    ],
)
async def test_a_failure_names_credential_issuer_reason_and_what_to_do(
    reply, after_s, message, retry_after_s, should_retry
):
    async with kept(otherwise=reply) as it:
        await it.clock.advance(after_s)
        errors = await asyncio.gather(*await it.asked(2), return_exceptions=True)
    error = errors[0]
    assert isinstance(error, TokenUnavailable)
    assert error.message == f"no token for credential corp: {message}"
    assert (error.hop, error.http_status) == ("credential:corp", 503)
    assert error.retry_after_s == pytest.approx(retry_after_s)
    assert error.should_retry is should_retry
    assert errors[1] is not error, "each request has an error of its own"


async def test_status_of_a_fresh_a_stale_and_an_expired_token():
    async with kept(Mint(), otherwise=Broken()) as it:
        await it.clock.advance(100.0)
        fresh = it.holder.status()
        assert [(renewal.ok, renewal.at) for renewal in fresh.renewals] == [(True, 1_800_000_000.0)]
        changed = {"age_s": 100.0, "expires_in_s": 195.0, "next_try_in_s": 140.0, "renewals": fresh.renewals}
        assert fresh == structs.replace(FRESH, **changed)
        await it.clock.advance(141.0)
        stale = it.holder.status()
        assert (stale.state, stale.expires_in_s, stale.failing, stale.failures) == (Freshness.STALE, 54.0, False, 3)
        assert (stale.refreshing, stale.next_try_in_s) == (True, None)
        since = it.holder.status().failing_since
        await it.clock.advance(1.0)
        assert it.holder.status().failing
        assert it.holder.status().last_error == DOWN
        assert it.holder.status().last_error_age_s == pytest.approx(0.3)
        await it.clock.advance(60.0)
        expired = it.holder.status()
        assert (expired.state, expired.expires_in_s) == (Freshness.EXPIRED, 0.0)
        assert since is not None
        assert expired.failing_since == since == round(it.clock.wall() - it.clock.now() + 1240.0)
        it.issuer.otherwise = Mint()
        await it.clock.advance(4.0)
        status = it.holder.status()
        assert (status.last_error, status.failing, status.failing_since) == (DOWN, False, None)


async def test_every_fetch_is_logged(caplog):
    caplog.set_level(logging.INFO, logger="gatepass.tokens")
    async with kept(Broken(), Mint(delay_s=1.5)) as it:
        await it.clock.advance(2.0)
        assert [renewal.reason for renewal in it.holder.status().renewals] == [DOWN, None]
    records = [(record.name, record.levelname, record.getMessage(), record.fields) for record in caplog.records]
    assert records == [
        (
            *("gatepass.tokens", "WARNING", "token_fetch_failed"),
            {"credential": "corp", "took_s": 0.0, "reason": DOWN, "definite": False, "times": 1},
        ),
        (
            *("gatepass.tokens", "INFO", "token_fetched"),
            {"credential": "corp", "took_s": 1.5, "lifetime_s": 300.0, "kind": "opaque", "lifetime_source": "reply"},
        ),
    ]


async def test_secrets_and_tokens_are_learned_and_printed_nowhere(caplog):
    caplog.set_level(logging.DEBUG)
    echo = answer({"error": "invalid_client", "error_description": f"{SECRET} is wrong, token-1-of-corp too"}, 401)
    async with kept(Mint(text="token-1-of-corp"), otherwise=echo) as it:
        await it.clock.advance(300.0)
        with pytest.raises(TokenUnavailable) as caught:
            await it.holder.token()
        seen = [
            *(repr(it.holder), str(it.holder.status()), *map(repr, vars(it.holder).values())),
            *(str(caught.value), repr(caught.value), caplog.text),
            *(str(record.__dict__) for record in caplog.records),
        ]
        assert [text for text in seen if SECRET in text or "token-1-of-corp" in text] == []
        assert it.redactor.mask(f"{SECRET} token-1-of-corp") == "*** ***"


# --- sources with bugs, and the end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bug", [KeyError("x"), asyncio.CancelledError()])
async def test_a_source_with_a_bug_is_a_failure_like_any_other(bug, caplog):
    clock = DrivenClock()
    async with over(OddSource(bug, Token(Secret("abc"), clock.now(), 300.0)), clock) as holder:
        with pytest.raises(TokenUnavailable, match="a bug in gatepass: the log has its trace"):
            await holder.token()
        assert [record.exc_info is not None for record in caplog.records] == [True]
        await clock.advance(4.0)
        assert holder.usable


async def test_a_refresh_task_with_a_bug_logs_it_keeps_to_the_backoff_and_continues(caplog):
    clock = DrivenClock()
    source = OddSource(*(Token(Secret(f"token-{number}"), clock.now() + number * 80, 100.0) for number in range(9)))
    async with over(source, clock) as holder:
        await clock.advance(1.0)
        source.broken = True
        await clock.advance(50.0)
        assert [record.fields["reason"] for record in caplog.records] == ["a bug in gatepass: the log has its trace"]
        assert caplog.records[0].exc_info is not None
        status = holder.status()
        assert (holder.usable, status.failing, source.fetches) == (True, True, 1)
        assert 1 <= status.failures <= 50
        source.broken = False
        await clock.advance(560.0)
        assert (holder.usable, holder.status().failing) == (True, False)


async def test_a_source_without_a_bound_keeps_no_request_beyond_the_budget():
    clock = DrivenClock()
    source = OddSource()
    source.fetch = asyncio.Event().wait  # type: ignore[assignment]  # never returns, so no token either
    async with over(source, clock) as holder:
        task = asyncio.create_task(holder.token())
        await clock.advance(10.3)
        expected = r"no answer from the issuer within 10 s \(credentials\.\w+\.timeout_s and a moment more\)"
        with pytest.raises(TokenUnavailable, match=expected):
            await task


async def test_the_holder_may_be_closed_at_each_await_of_a_fetch():
    for turns in range(25):
        async with kept(Broken()) as it:
            task = asyncio.create_task(it.holder.token())
            for _ in range(turns):
                await asyncio.sleep(0)
            await it.holder.aclose()
            assert await outcomes([task]) in (["TokenUnavailable"], ["token-1"])
            assert task.exception() is None or str(task.exception()) == "credential corp is closed"
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_closed_holder_returns_its_token_and_drops_what_it_still_fetches():
    async with kept(Mint(), Mint(text="late-token-1")) as it:
        await settle()
        await it.holder.aclose()
        assert (await it.holder.token()).text == "token-1"
        assert not it.holder.reject("token-1")
        await it.clock.advance(600.0)
        assert it.issuer.calls == 1
        with pytest.raises(TokenUnavailable):
            await it.holder.token()
    async with kept(Mint(text="late-token-1", delay_s=2.0)) as it:
        await it.clock.advance(1.0)
        await it.holder.aclose()
        await it.clock.advance(5.0)
        assert it.holder.current() is None
        assert it.redactor.mask("late-token-1") == "late-token-1"


TICK_S = 2.0**-10
"""Exact as a sum with the clock's 1,000 s."""
MARGIN_S = 5.0
LIFE_S = 300.0


async def test_only_a_valid_and_newer_token_of_another_process_is_taken_until_the_holder_closes():
    async with kept(Mint(life=LIFE_S), otherwise=Hang()) as it:
        await it.clock.advance(200.0)
        held = it.holder.current()
        assert held is not None
        other, later_s = structs.replace(held, value=Secret("from-elsewhere")), held.requested_s + TICK_S
        dead = structs.replace(other, requested_s=later_s, lifetime_s=200.0 + MARGIN_S - TICK_S)
        older = structs.replace(other, requested_s=held.requested_s - TICK_S)
        for left in (other, older, dead, structs.replace(held, requested_s=later_s)):
            assert not it.holder.adopt_shared(left)
            assert it.holder.current() is held
        newer = structs.replace(dead, lifetime_s=200.0 + MARGIN_S)
        assert it.holder.adopt_shared(newer)
        assert it.holder.current() is newer
        await it.holder.aclose()
        assert not it.holder.adopt_shared(structs.replace(held, requested_s=later_s + TICK_S))
