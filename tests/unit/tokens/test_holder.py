from __future__ import annotations

import asyncio
import gc
import logging
from dataclasses import replace
from typing import Any
from weakref import WeakSet

import pytest

from gatepass.config.references import Reference
from gatepass.errors import TokenUnavailable
from gatepass.observability.redaction import Redactor
from gatepass.tokens import FetchFailure, Token, TokenHolder, TokenReissued, TokenUser, WaitBudget
from gatepass.tokens.failure import FailureKind
from gatepass.tokens.holder import AFTER_REPAIR
from gatepass.tokens.lifetime import Freshness, LifetimeSource, TokenKind
from gatepass.types import Secret
from tests.unit.clock import DrivenClock, settle
from tests.unit.tokens.scripted import (
    SECRET,
    Broken,
    Hang,
    IssuerReply,
    Mint,
    RunningHolder,
    ScriptedIssuer,
    answer,
    cancelled_at_each_await,
    http_json,
    oauth2,
    outcomes,
    refused,
    signed,
    static,
)
from tests.unit.tokens.statuses import FRESH

REPAIR = f". {AFTER_REPAIR}"
CHECK = ". Check credentials.corp.client_id, credentials.corp.client_secret, credentials.corp.client_auth"
RELOAD = f"; a new secret in the configuration file requires `gatepass reload`{CHECK}{REPAIR}"
RESTART = f"; a new secret requires a restart, because it is in an environment variable{CHECK}{REPAIR}"
DOWN = (
    "no connection to sso.example (refused). Check the host and port in credentials.corp.token_url, whether it is up,"
    " and whether this network needs network.proxy"
)


def kept(
    *replies: IssuerReply, otherwise: IssuerReply | None = None, settings: object = None, jitter: float = 0.0
) -> RunningHolder:
    clock = DrivenClock()
    return RunningHolder(clock, ScriptedIssuer(clock, *replies, otherwise=otherwise), settings, jitter=jitter)


class Reply:
    """A reply of an issuer, which a frame holds."""


class OddSource:
    """A source of a test's own."""

    def __init__(self, *results: Token | BaseException) -> None:
        self.results = list(results)
        self.fetches = 0

    def secrets(self) -> tuple[Secret, ...]:
        return ()

    async def fetch(self) -> Token:
        self.fetches += 1
        result = self.results.pop(0) if self.results else FetchFailure("nothing more")
        await asyncio.sleep(0)
        if isinstance(result, BaseException):
            raise result
        return result


def over(source: OddSource, clock: DrivenClock) -> TokenHolder:
    return TokenHolder("odd", source, clock, Redactor(), WaitBudget(10.0, random_fraction=lambda: 0.0))


async def test_nothing_runs_before_the_start():
    it = kept()
    assert it.holder.current() is None
    assert not it.holder.usable
    assert it.holder.status().state == "none"
    assert it.holder.reject("abc")
    await it.holder.aclose()


async def test_holder_starts_only_once():
    async with kept() as it:
        it.holder.start()
        await settle()
        assert [task.get_name() for task in asyncio.all_tasks()].count("refresh of corp") == 1


async def test_a_token_is_minted_at_the_start_without_traffic():
    async with kept() as it:
        await settle()
        assert it.holder.usable
        token = it.holder.current()
        assert token is not None
        assert token.text == "token-1"
        assert await it.holder.token() is token


async def test_a_dead_issuer_does_not_stop_the_start():
    async with kept(otherwise=Broken()) as it:
        await it.clock.advance(10.0)
        assert not it.holder.usable
        assert it.holder.status().failing


async def test_it_refreshes_at_80_percent_of_the_life_without_traffic_or_waiting():
    async with kept(Mint(), Mint(delay_s=30.0)) as it:
        await it.clock.advance(239.9)
        assert it.issuer.calls == 1
        await it.clock.advance(0.2)
        assert it.issuer.calls == 2
        assert (await it.holder.token()).text == "token-1"
        assert it.holder.status().refreshing
        await it.clock.advance(30.0)
        assert (await it.holder.token()).text == "token-2"


async def test_jitter_refreshes_earlier():
    async with kept(jitter=1.0) as it:
        await it.clock.advance(224.9)
        assert it.issuer.calls == 1
        await it.clock.advance(0.2)
        assert it.issuer.calls == 2


@pytest.mark.parametrize("life", [5, 60, 300])
async def test_an_hour_of_lives_costs_one_fetch_each(life):
    async with kept(otherwise=Mint(life)) as it:
        await it.clock.advance(3600.0)
        assert it.issuer.calls == 1 + int(3600 / (life * 0.8))
        assert it.holder.status().failures == 0


async def test_five_hundred_cold_waiters_cause_one_fetch():
    async with kept(Mint(delay_s=2.0)) as it:
        tasks = await it.asked(500)
        await it.clock.advance(2.0)
        assert await outcomes(tasks) == ["token-1"] * 500
        assert it.issuer.calls == 1


async def test_five_hundred_waiters_at_expiry_cause_one_fetch():
    async with kept(Mint()) as it:
        await settle()
        it.issuer.replies.append(Mint(delay_s=1.0))
        it.clock.suspend(296.0)
        tasks = await it.asked(500)
        await it.clock.advance(1.0)
        assert await outcomes(tasks) == ["token-2"] * 500
        assert it.issuer.calls == 2


async def test_five_hundred_rejections_in_unison_cause_one_fetch():
    async with kept(Mint(), Mint(delay_s=1.0)) as it:
        await settle()
        assert [it.holder.reject("token-1") for _ in range(500)] == [True] * 500
        tasks = await it.asked(500, instead_of="token-1")
        await it.clock.advance(1.0)
        assert await outcomes(tasks) == ["token-2"] * 500
        assert it.issuer.calls == 2


async def test_late_rejections_kill_no_newer_token():
    async with kept() as it:
        await settle()
        assert it.holder.reject("token-1")
        await settle()
        assert [it.holder.reject("token-1") for _ in range(500)] == [True] * 500
        await settle()
        assert [(await it.holder.token(instead_of="token-1")).text for _ in range(3)] == ["token-2"] * 3
        assert it.issuer.calls == 2


async def test_only_the_rejecting_request_waits_while_another_token_is_fetched():
    async with kept(Mint(), Hang()) as it:
        await settle()
        it.holder.reject("token-1")
        waiting = await it.asked(1, instead_of="token-1")
        assert not waiting[0].done()
        assert (await it.holder.token()).text == "token-1"


async def test_a_rejection_under_way_of_a_refresh_joins_it():
    async with kept(Mint(), Mint(delay_s=2.5)) as it:
        await it.clock.advance(241.0)
        assert it.holder.reject("token-1")
        tasks = await it.asked(1, instead_of="token-1")
        await it.clock.advance(1.5)
        assert await outcomes(tasks) == ["token-2"]
        assert it.issuer.calls == 2


async def test_the_issuer_that_gives_the_rejected_token_again_shows_the_upstreams_answer():
    async with kept(otherwise=Mint(text="same")) as it:
        await settle()
        assert it.holder.reject("same")
        with pytest.raises(TokenReissued) as caught:
            await it.holder.token(instead_of="same")
        assert caught.value.hop == "credential:corp"
        assert (await it.holder.token()).text == "same"
        assert not it.holder.reject("same")
        assert it.issuer.calls == 2
        await it.clock.advance(10.0)
        assert it.holder.reject("same")
        await settle()
        assert it.issuer.calls == 3


async def test_rejections_cause_six_fetches_a_minute_at_most():
    async with kept() as it:
        await settle()
        results = []
        for _ in range(10):
            token = await it.holder.token()
            results.append(it.holder.reject(token.text))
            await settle()
        assert results == [True] * 6 + [False] * 4
        assert it.issuer.calls == 7
        assert it.holder.usable
        await it.clock.advance(60.0)
        assert it.holder.reject("token-7")


async def test_a_rejection_in_an_outage_keeps_to_the_backoff():
    async with kept(Mint(), otherwise=answer({}, 503, (b"retry-after", b"30"))) as it:
        await it.clock.advance(241.0)
        calls = it.issuer.calls
        assert it.holder.reject("token-1")
        assert await outcomes(await it.asked(20, instead_of="token-1")) == ["TokenUnavailable"] * 20
        assert it.issuer.calls == calls


async def test_a_cancel_of_the_first_waiter_cancels_no_other():
    async with kept(Mint(delay_s=2.0)) as it:
        tasks = await it.asked(320)
        for task in tasks[:300]:
            task.cancel()
        await it.clock.advance(2.0)
        assert await outcomes(tasks) == ["CancelledError"] * 300 + ["token-1"] * 20
        assert it.issuer.calls == 1


async def test_fetch_continues_without_waiting_requests():
    async with kept(Mint(), Mint(delay_s=2.0)) as it:
        await settle()
        it.holder.reject("token-1")
        tasks = await it.asked(2000, instead_of="token-1")
        for task in tasks:
            task.cancel()
        await it.clock.advance(2.0)
        assert it.holder.usable
        assert await outcomes(tasks) == ["CancelledError"] * 2000
        assert it.issuer.calls == 2


async def test_a_waiter_may_be_cancelled_at_each_await():
    async with kept(Mint(), otherwise=Hang()) as it:
        await settle()
        it.holder.reject("token-1")

        async def begin() -> None:
            await it.holder.token(instead_of="token-1")

        def check() -> None:
            assert it.issuer.under_way == 1

        with pytest.raises(AssertionError, match="never came to its end"):
            await cancelled_at_each_await(begin, check, most=10)
        assert it.issuer.calls == 2


async def test_the_holder_may_be_closed_at_each_await_of_a_fetch():
    for replies in range(25):
        clock = DrivenClock()
        issuer = ScriptedIssuer(clock, Broken(), otherwise=Mint())
        async with RunningHolder(clock, issuer) as it:
            task = asyncio.create_task(it.holder.token())
            for _ in range(replies):
                await asyncio.sleep(0)
            await it.holder.aclose()
            assert await outcomes([task]) in (["TokenUnavailable"], ["token-1"])
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_waiting_request_gets_an_error_when_the_holder_closes():
    async with kept(Hang()) as it:
        tasks = await it.asked(3)
        await it.holder.aclose()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {str(result) for result in results} == {"credential corp is closed"}
        assert it.holder.status().failures == 0


async def test_closed_holder_returns_its_token_and_does_not_fetch():
    async with kept() as it:
        await settle()
        await it.holder.aclose()
        assert (await it.holder.token()).text == "token-1"
        assert not it.holder.reject("token-1")
        await it.clock.advance(600.0)
        assert it.issuer.calls == 1
        with pytest.raises(TokenUnavailable):
            await it.holder.token()


async def test_the_failure_names_credential_issuer_and_reason():
    async with kept(otherwise=refused()) as it:
        await settle()
        with pytest.raises(TokenUnavailable) as caught:
            await it.holder.token()
        error = caught.value
        assert error.message == (
            "no token for credential corp: the issuer refused the client: sso.example answered 401: "
            f"invalid_client: No; next attempt in 30 s{RELOAD}"
        )
        assert (error.hop, error.retry_after_s, error.http_status) == ("credential:corp", 30.0, 503)


async def test_a_wrong_url_does_not_mention_the_secret():
    async with kept(otherwise=refused("not_found", 404)) as it:
        await settle()
        with pytest.raises(TokenUnavailable) as caught:
            await it.holder.token()
    assert caught.value.message == (
        "no token for credential corp: the URL is wrong: sso.example answered 404: not_found: No; check"
        " credentials.corp.token_url; next attempt in 30 s" + REPAIR
    )


async def test_a_refusal_states_when_the_next_attempt_starts():
    async with kept(otherwise=refused()) as it:
        await it.clock.advance(2.5)
        with pytest.raises(TokenUnavailable, match=f"; next attempt in 28 s{RELOAD}$") as caught:
            await it.holder.token()
        assert caught.value.retry_after_s == 27.5


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
        it.holder.rejected_again(chat)
        await it.clock.advance(90.0)
        assert (it.issuer.calls, it.holder.rejection_age_s("chat", base_url)) == (2, 90.0)
        assert it.holder.retry()
        await settle()
        assert it.issuer.calls == 3
        it.holder.confirm(await it.holder.token(renewed.text), chat)
        assert it.holder.rejection_age_s("chat", base_url) is None
        assert not it.holder.retry()


async def test_a_long_pause_after_an_outage_names_the_command_too():
    busy = answer({"error": "slow_down"}, 429, (b"retry-after", b"600"))
    async with kept(otherwise=busy) as it:
        await settle()
        with pytest.raises(TokenUnavailable, match=f"; next attempt in 600 s{REPAIR}$"):
            await it.holder.token()


async def test_refusal_announces_a_retry_at_a_change_only_for_a_secret_in_a_file(tmp_path):
    file = tmp_path / "secret"
    file.write_text("s3cr3t")
    in_a_file, in_a_variable = Reference.to_file(str(file)), Reference.to_variable("CORP_SECRET", "s3cr3t")
    changed = f" or when the file of its secret changes{CHECK}{REPAIR}"
    for secret, reported in ((in_a_file, changed), (in_a_variable, RESTART)):
        async with kept(otherwise=refused(), settings=oauth2(client_secret=secret)) as it:
            await settle()
            with pytest.raises(TokenUnavailable, match=f"; next attempt in 30 s{reported}$"):
                await it.holder.token()


async def test_a_failure_that_may_pass_promises_nothing_of_the_secret():
    async with kept(otherwise=Broken()) as it:
        await it.clock.advance(3.0)
        with pytest.raises(TokenUnavailable) as caught:
            await it.holder.token()
        assert caught.value.message == f"no token for credential corp: {DOWN}; next attempt in 1 s"


async def test_each_waiter_gets_an_error_of_its_own():
    async with kept(otherwise=refused()) as it:
        tasks = await it.asked(10)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert len({id(result) for result in results}) == 10


async def test_status_of_a_fresh_a_stale_and_an_expired_token():
    async with kept(Mint(), otherwise=Broken()) as it:
        await it.clock.advance(100.0)
        assert it.holder.status() == replace(FRESH, age_s=100.0, expires_in_s=195.0, next_try_in_s=140.0)
        await it.clock.advance(141.0)
        stale = it.holder.status()
        assert (stale.state, stale.expires_in_s, stale.failing, stale.failures) == (Freshness.STALE, 54.0, False, 3)
        assert (stale.refreshing, stale.next_try_in_s) == (True, None)
        await it.clock.advance(1.0)
        assert it.holder.status().failing
        assert it.holder.status().last_error == DOWN
        assert it.holder.status().last_error_age_s == pytest.approx(0.3)
        await it.clock.advance(60.0)
        expired = it.holder.status()
        assert (expired.state, expired.expires_in_s) == (Freshness.EXPIRED, 0.0)


async def test_a_key_has_no_life_and_is_read_once():
    async with kept(settings=static()) as it:
        await it.clock.advance(3600.0)
        status = it.holder.status()
        assert (status.state, status.kind, status.expires_in_s, status.next_try_in_s) == (
            "fresh",
            TokenKind.KEY,
            None,
            None,
        )
        assert (status.fetches, status.lifetime_source) == (1, LifetimeSource.NONE)


async def test_a_key_in_a_file_is_replaced_within_5_seconds():
    key = ["key-of-yesterday"]
    async with kept(settings=static(Secret(lambda: key[0]))) as it:
        await it.clock.advance(60.0)
        key[0] = "key-of-today"
        await it.clock.advance(5.0)
        assert (await it.holder.token()).text == "key-of-today"


async def test_key_stays_in_use_while_its_file_is_missing():
    key = ["key-of-yesterday"]

    def read() -> str:
        if not key:
            raise ValueError("the file cannot be read")
        return key[0]

    async with kept(settings=static(Secret(read))) as it:
        await settle()
        key.clear()
        await it.clock.advance(60.0)
        assert (await it.holder.token()).text == "key-of-yesterday"
        assert it.holder.status().failing
        key.append("key-of-today")
        await it.clock.advance(4.0)
        assert (await it.holder.token()).text == "key-of-today"


async def test_a_key_that_was_rejected_is_read_again():
    async with kept(settings=static("key-1234567890")) as it:
        await settle()
        assert it.holder.reject("key-1234567890")
        with pytest.raises(TokenReissued):
            await it.holder.token(instead_of="key-1234567890")
        assert not it.holder.reject("key-1234567890")
        assert it.holder.usable


async def test_every_fetch_is_logged(caplog):
    caplog.set_level(logging.INFO, logger="gatepass.tokens")
    async with kept(Broken(), Mint(delay_s=1.5)) as it:
        await it.clock.advance(2.0)
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


async def test_an_outage_is_logged_at_once_and_then_once_a_minute_with_a_count(caplog):
    async with kept(otherwise=Broken()) as it:
        await it.clock.advance(150.0)
        failures = it.holder.status().failures
        reported = [record.fields["times"] for record in caplog.records]
        assert (len(reported), reported[0]) == (3, 1)
        assert failures - 30 <= sum(reported) <= failures
        it.issuer.otherwise = Mint(300.0)
        await it.clock.advance(4.0)
        it.issuer.otherwise = Broken()
        await it.clock.advance(250.0)
        assert [record.fields["times"] for record in caplog.records][3:] == [1]


async def test_age_of_the_last_error_grows_after_the_recovery():
    async with kept(Broken(), Mint()) as it:
        await it.clock.advance(100.0)
        status = it.holder.status()
        assert (status.last_error, status.last_error_age_s, status.failing) == (DOWN, 100.0, False)


async def test_a_credential_fails_since_its_first_failure_until_the_next_token():
    async with kept(otherwise=Broken()) as it:
        await it.clock.advance(1.0)
        since_s = it.holder.failing_since_s
        assert since_s is not None
        await it.clock.advance(150.0)
        assert it.holder.failing_since_s == since_s <= it.clock.now() - 150.0
        it.issuer.otherwise = Mint(300.0)
        await it.clock.advance(100.0)
        assert it.holder.failing_since_s is None


async def test_a_missing_expiry_is_logged_once_per_change(caplog):
    caplog.set_level(logging.INFO, logger="gatepass.tokens")
    reported: dict[str, int] = {"until": 100}
    untold: dict[str, int] = {}
    lives = (untold, untold, reported, reported, untold)
    replies = [answer({"token": f"token-{number}", **life}) for number, life in enumerate(lives)]
    settings = http_json(json={"id": "bot"}, reply={"expiry": "until"}, default_ttl_s=100.0)
    async with kept(*replies, settings=settings) as it:
        for seen, is_missing in ((1, True), (1, True), (1, False), (1, False), (2, True)):
            await settle()
            token = it.holder.current()
            assert token is not None
            assert token.missing_expiry_path == ("until" if is_missing else None)
            events = [(r.levelname, r.getMessage(), r.fields) for r in caplog.records if "expiry" in r.getMessage()]
            assert len(events) == seen
            await it.clock.advance(80.0)
    missed = ("WARNING", "expiry_missing", {"credential": "corp", "path": "until", "assumed_lifetime_s": 100.0})
    assert events == [missed, missed]


@pytest.mark.parametrize("bug", [KeyError("x"), asyncio.CancelledError()])
async def test_a_source_with_a_bug_is_a_failure_like_any_other(bug, caplog):
    clock = DrivenClock()
    source = OddSource(bug, Token(Secret("abc"), clock.now(), 300.0))
    holder = over(source, clock)
    holder.start()
    with pytest.raises(TokenUnavailable, match="a bug in gatepass: the log has its trace"):
        await holder.token()
    assert [record.exc_info is not None for record in caplog.records] == [True]
    await clock.advance(4.0)
    assert holder.usable
    await holder.aclose()


class FragileSource(OddSource):
    """Its secrets cannot be looked at while it is `broken`."""

    broken = False

    def secrets(self) -> tuple[Secret, ...]:
        if self.broken:
            raise PermissionError(13, "Permission denied")
        return ()


async def test_a_refresh_task_logs_a_bug_and_continues(caplog):
    clock = DrivenClock()
    source = FragileSource(*(Token(Secret(f"token-{number}"), clock.now() + number * 80, 100.0) for number in range(9)))
    holder = over(source, clock)
    holder.start()
    await clock.advance(1.0)
    source.broken = True
    await clock.advance(10.0)
    assert [record.fields["reason"] for record in caplog.records] == ["a bug in gatepass: the log has its trace"]
    assert caplog.records[0].exc_info is not None
    assert (holder.usable, holder.status().failing) == (True, True)
    source.broken = False
    await clock.advance(600.0)
    assert (holder.usable, holder.status().failing) == (True, False)
    await holder.aclose()


async def test_a_refresh_task_with_repeated_bugs_keeps_to_the_backoff():
    clock = DrivenClock()
    source = FragileSource()
    source.broken = True
    holder = over(source, clock)
    holder.start()
    await clock.advance(600.0)
    status = holder.status()
    assert (status.failing, source.fetches) == (True, 0)
    assert 10 <= status.failures <= 600
    await holder.aclose()


async def test_a_refresh_task_that_meets_a_bug_while_its_holder_closes_does_not_begin_again(caplog):
    clock = DrivenClock()
    source = FragileSource(Token(Secret("abc"), clock.now(), 100.0))
    holder = over(source, clock)
    holder.start()
    await clock.advance(1.0)
    source.broken = True
    holder.adopt_shared(Token(Secret("xyz"), clock.now(), 100.0))
    await asyncio.sleep(0)  # the task has met the bug, and its callback has not run yet
    await holder.aclose()
    await settle()
    assert caplog.records == []
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("refresh of")] == []


async def test_token_expired_on_arrival_is_not_returned():
    clock = DrivenClock()
    holder = over(OddSource(Token(Secret("abc"), clock.now() - 10.0, 5.0)), clock)
    holder.start()
    with pytest.raises(TokenUnavailable, match=r"expired on arrival: 5\.0 s of lifetime, and fetching it took 10\.0 s"):
        await holder.token()
    await holder.aclose()


async def test_jwt_from_a_cache_keeps_its_first_end():
    clock = DrivenClock()
    text = signed(iat=clock.wall(), exp=clock.wall() + 300)
    async with RunningHolder(clock, ScriptedIssuer(clock, otherwise=Mint(None, text))) as it:
        await clock.advance(290.0)
        assert it.holder.current() is not None
        await clock.advance(15.0)
        assert it.holder.current() is None
        assert "expired on arrival" in (it.holder.status().last_error or "")


async def test_secrets_and_tokens_are_learned_and_printed_nowhere(caplog):
    caplog.set_level(logging.DEBUG)
    echo = answer({"error": "invalid_client", "error_description": f"{SECRET} is wrong, token-1-of-corp too"}, 401)
    async with kept(Mint(text="token-1-of-corp"), otherwise=echo) as it:
        await it.clock.advance(250.0)
        await it.clock.advance(50.0)
        with pytest.raises(TokenUnavailable) as caught:
            await it.holder.token()
        seen = [
            *(repr(it.holder), str(it.holder.status()), *map(repr, vars(it.holder).values())),
            *(str(caught.value), repr(caught.value), caplog.text),
            *(str(record.__dict__) for record in caplog.records),
        ]
        assert [text for text in seen if SECRET in text or "token-1-of-corp" in text] == []
        assert it.redactor.mask(f"{SECRET} token-1-of-corp") == "*** ***"


async def test_a_failure_keeps_no_reply_of_the_issuer():
    clock, replies = DrivenClock(), WeakSet[Reply]()

    class Refusing(OddSource):
        async def fetch(self) -> Token:
            replies.add(reply := Reply())
            raise FetchFailure(f"refused by {type(reply).__name__}", FailureKind.REFUSED)

    holder = over(Refusing(), clock)
    holder.start()
    with pytest.raises(TokenUnavailable):
        await holder.token()
    await settle()
    gc.collect()
    assert (holder.status().failing, len(replies)) == (True, 0)
    await holder.aclose()


async def test_a_hot_path_with_a_fresh_token_does_not_yield():
    async with kept() as it:
        await settle()
        coroutine = it.holder.token()
        with pytest.raises(StopIteration) as caught:
            coroutine.send(None)
        assert caught.value.value.text == "token-1"


async def test_a_source_without_a_bound_keeps_no_request_beyond_the_budget():
    clock = DrivenClock()
    source = OddSource()
    source.fetch = asyncio.Event().wait  # type: ignore[assignment]  # never returns, so no token either
    holder = over(source, clock)
    holder.start()
    task = asyncio.create_task(holder.token())
    await clock.advance(10.3)
    with pytest.raises(
        TokenUnavailable,
        match=r"no answer from the issuer within 10 s \(credentials\.\w+\.timeout_s and a moment more\)",
    ):
        await task
    await holder.aclose()


async def test_single_use_tokens_are_renewed_every_3_seconds():
    async with kept() as it:
        await settle()
        for number in range(100):
            token = await it.holder.token()
            it.holder.confirm(token)
            await it.clock.advance(3.0)
            assert it.holder.reject(token.text), number
            assert (await it.holder.token(instead_of=token.text)).text == f"token-{number + 2}"
        assert it.issuer.calls == 101


async def test_confirmation_applies_to_its_own_token_only():
    async with kept() as it:
        await settle()
        first = await it.holder.token()
        it.holder.confirm(first)
        assert it.holder.reject(first.text)
        results = []
        for _ in range(8):
            await it.clock.advance(1.0)  # the first of these follows one of a token that had worked
            token = await it.holder.token()
            it.holder.confirm(first)
            results.append(it.holder.reject(token.text))
        assert results == [True] * 6 + [False] * 2


async def until_it_ends(it: RunningHolder) -> None:
    """Let the issuer give the same JWT of 300 s until it is not sent any more."""
    while it.clock.now() < 1300.0 - 10.0 or it.holder.usable:
        await it.clock.advance(0.25)
    assert it.clock.now() < 1300.0


async def test_requests_wait_for_the_next_token_near_the_end_of_one_that_the_issuer_repeats():
    clock = DrivenClock()
    text = signed(iat=clock.wall(), exp=clock.wall() + 300)
    async with RunningHolder(clock, ScriptedIssuer(clock, otherwise=Mint(None, text))) as it:
        await until_it_ends(it)
        tasks = await it.asked(50)
        await clock.advance(0.2)
        assert not any(task.done() for task in tasks)
        it.issuer.otherwise = Mint()
        await clock.advance(1301.0 - clock.now())
        assert set(await outcomes(tasks)) == {it.issuer.minted[-1]} != {text}
        assert it.holder.status().failures == 0


async def test_wait_is_bounded_if_the_issuer_returns_an_expired_token():
    clock = DrivenClock()
    text = signed(iat=clock.wall(), exp=clock.wall() + 300)
    async with RunningHolder(clock, ScriptedIssuer(clock, otherwise=Mint(None, text))) as it:
        await until_it_ends(it)
        calls = it.issuer.calls
        tasks = await it.asked(5)
        await clock.advance(5.0)
        assert await outcomes(tasks) == ["TokenUnavailable"] * 5
        assert "expired on arrival" in str(tasks[0].exception())
        assert it.issuer.calls - calls <= 5


async def test_a_token_that_an_upstream_rejects_long_before_its_end_is_logged_once_a_minute(caplog):
    user = TokenUser("chat", "m")

    def reported() -> list[dict[str, Any]]:
        return [record.fields for record in caplog.records if record.getMessage() == "token_ended_early"]

    async with kept(Mint(), Mint(), Mint(), Mint()) as it:
        token = await it.holder.token()
        assert it.holder.reject(token.text, user)  # never accepted: a wrong credential, not an early end
        token = await it.holder.token(instead_of=token.text)
        assert reported() == []
        for _ in range(2):
            await it.clock.advance(20.0)
            it.holder.confirm(token, user)
            assert it.holder.reject(token.text, user)
            token = await it.holder.token(instead_of=token.text)
        expected = {"credential": it.holder.name, "upstream": "chat", "age_s": 20.0, "lifetime_s": 300.0}
        assert reported() == [expected]


async def test_a_token_that_ends_when_it_should_is_not_logged_as_early(caplog):
    user = TokenUser("chat", "m")
    async with kept(Mint(), Mint(delay_s=90.0)) as it:
        token = await it.holder.token()
        it.holder.confirm(token, user)
        await it.clock.advance(250.0)
        assert it.holder.reject(token.text, user)
    assert "token_ended_early" not in caplog.text


@pytest.mark.parametrize(
    ("status", "code", "should_retry"),
    [(401, "invalid_client", False), (401, "x", False), (400, "x", None), (503, "x", None)],
)
async def test_clients_do_not_repeat_a_request_whose_credential_the_issuer_refuses(status, code, should_retry):
    async with kept(otherwise=answer({"error": code}, status)) as it:
        await it.clock.advance(3.0)
        with pytest.raises(TokenUnavailable) as raised:
            await it.holder.token()
    assert raised.value.should_retry is should_retry
