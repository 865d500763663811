"""The life of a token against everything an issuer may do: one test per row, named by its hazard.

Each row is seen as requests see it: what they get, how often the issuer was called, and that no
dead token was ever given away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gatepass.errors import Fault, TokenUnavailable
from gatepass.tokens import Token
from gatepass.tokens.issuer_error import REFUSED
from gatepass.tokens.lifetime import LifetimeSource
from gatepass.types import Secret
from tests.unit.clock import DrivenClock, settle
from tests.unit.tokens.scripted import (
    JSON,
    Answer,
    Broken,
    Hang,
    IssuerReply,
    Mint,
    RunningHolder,
    ScriptedIssuer,
    answer,
    date,
    http_json,
    oauth2,
    outcomes,
    refused,
    signed,
)
from tests.unit.tokens.test_holder import RELOAD

HTML = Answer(200, b"<html><title>Sign in</title>", ((b"content-type", b"text/html"),))
FAULTS: dict[str, IssuerReply] = {
    "refused": Broken(),
    "reset": Broken(Fault.CLOSED, "reset"),
    "dns": Broken(Fault.DNS, "not known"),
    "tls": Broken(Fault.TLS, "certificate"),
    "hang": Hang(),
    "dribble": Answer(pieces=[b" "] * 10_000, every_s=1.0),
    "500": answer({}, 500),
    "429": answer({"msg": "slow down"}, 429),
    "garbage": Answer(body=b"\xff\xfe{"),
    "html": HTML,
    "empty": Answer(body=b""),
    "null": answer({"access_token": None, "expires_in": 300}),
    "crlf": answer({"access_token": "abc\r\nx-evil: 1"}),
    "code": answer({"code": 50301, "msg": "busy"}),
    "redirect": Answer(302, b"", ((b"location", b"https://login.example/"),)),
    "huge": Answer(pieces=[b"x" * 65_537]),
    "dead": answer({"access_token": "dead", "expires_in": 0}),
    "400 of a proxy": Answer(400, b"", ()),
    "401 of a proxy": Answer(401, HTML.body, HTML.headers),
    "403 of a proxy": Answer(403, HTML.body, HTML.headers),
    "403 of a mesh": Answer(403, b"RBAC: access denied", ((b"content-type", b"text/plain"),)),
    "503 for an hour": answer({}, 503, (b"retry-after", b"3600")),
}
REFUSALS: dict[str, IssuerReply] = {
    "invalid_client": refused(),
    "401": answer({"message": "blocked"}, 401),
    "401 with a challenge": Answer(401, b"", ((b"www-authenticate", b"Basic"),)),
    "407": Answer(407, b"", ()),
}
everything = pytest.mark.parametrize("fault", [*FAULTS, *REFUSALS])
passing = pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "429"])


def reply(fault: str) -> IssuerReply:
    return (FAULTS | REFUSALS)[fault]


@asynccontextmanager
async def holding(
    *replies: IssuerReply, otherwise: IssuerReply | None = None, jitter: float = 0.0, **settings: object
) -> AsyncIterator[RunningHolder]:
    clock = DrivenClock()
    settings = {"timeout_s": 10.0} | settings
    issuer = ScriptedIssuer(clock, *replies, otherwise=otherwise)
    async with RunningHolder(clock, issuer, oauth2(**settings), jitter=jitter) as it:
        yield it


def alive(it: RunningHolder, token: Token) -> bool:
    return token.requested_s <= it.clock.now() < token.expires_s


@everything
async def test_t1_issuer_failing_while_the_token_is_good_harms_no_request(fault):
    async with holding(Mint(), otherwise=reply(fault)) as it:
        for _ in range(59):
            assert await outcomes(await it.asked(1)) == ["token-1"]
            await it.clock.advance(4.9999)
        assert it.issuer.calls > 1


@everything
async def test_t2_issuer_failing_after_expiry_is_reported_in_time_and_no_expired_token_is_returned(fault):
    async with holding(Mint(), otherwise=reply(fault)) as it:
        await it.clock.advance(296.0)
        for _ in range(10):
            tasks = await it.asked(50)
            await it.clock.advance(1.0)
            assert await outcomes(tasks) == ["TokenUnavailable"] * 50
            error = tasks[0].exception()
            assert isinstance(error, TokenUnavailable)
            assert "sso.example" in error.message
            assert error.retry_after_s is not None
            assert 1.0 <= error.retry_after_s <= 300.0


@passing
async def test_t2_recovery_is_noticed_in_time_without_traffic(fault):
    """Within 4 s of the return of an issuer that fails, within the fetch timeout of one that hangs."""
    within_s = 10.0 if fault in ("hang", "dribble") else 4.0
    for outage_s in (0.0, 0.7, 1.4, 2.1, 2.8, 17.7):
        async with holding(Mint(), otherwise=reply(fault), jitter=1.0) as it:
            await it.clock.advance(320.0 + outage_s)
            assert not it.holder.usable
            it.issuer.otherwise = Mint()
            await it.clock.advance(within_s)
            assert it.holder.usable


@passing
async def test_t2_the_issuer_is_not_hammered_while_it_fails(fault):
    async with holding(otherwise=reply(fault)) as it:
        for _ in range(60):
            tasks = await it.asked(10)
            await it.clock.advance(1.0)
            for task in tasks:
                task.cancel()
        assert it.issuer.calls <= 4 + 60 / 2
        gaps = [late - early for early, late in zip(it.issuer.started_s[4:], it.issuer.started_s[5:], strict=False)]
        assert min(gaps) >= 2.0


@pytest.mark.parametrize("fault", ["hang", "dribble"])
async def test_t3_a_hanging_issuer_keeps_a_cold_request_for_its_time_and_no_longer(fault):
    async with holding(otherwise=reply(fault)) as it:
        tasks = await it.asked(50)
        await it.clock.advance(9.9)
        assert not any(task.done() for task in tasks)
        await it.clock.advance(0.2)
        assert await outcomes(tasks) == ["TokenUnavailable"] * 50
        assert "sent no complete answer within 10 s" in str(tasks[0].exception())
        later = await it.asked(50)
        await it.clock.advance(1.0)
        assert await outcomes(later) == ["TokenUnavailable"] * 50


async def test_t3_in_an_outage_the_oldest_try_has_its_full_time():
    async with holding(otherwise=Hang()) as it:
        await it.clock.advance(11.0)
        it.issuer.otherwise = Mint(delay_s=9.0)
        await it.clock.advance(9.0 + 9.1)
        assert it.holder.usable


async def test_t3_outage_has_one_attempt_at_a_time():
    async with holding(otherwise=Hang()) as it:
        for _ in range(80):
            await it.clock.advance(0.5)
            assert it.issuer.under_way <= 1
        it.issuer.otherwise = Mint()
        await it.clock.advance(10.0)
        assert it.holder.usable
        assert it.issuer.under_way == 0


@pytest.mark.parametrize("fault", ["500", "reset", "empty", "html"])
async def test_t4_two_faults_and_then_a_token_lose_no_request(fault):
    async with holding(reply(fault), reply(fault)) as it:
        tasks = await it.asked(50)
        await it.clock.advance(0.7)
        assert await outcomes(tasks) == ["token-1"] * 50
        assert it.issuer.started_s == [1000.0, 1000.2, 1000.7]


async def test_t5_retry_after_is_obeyed_for_all_waiting_requests():
    async with holding(otherwise=answer({}, 429, (b"retry-after", b"20"))) as it:
        for _ in range(19):
            tasks = await it.asked(50)
            await it.clock.advance(1.0)
            assert await outcomes(tasks) == ["TokenUnavailable"] * 50
        assert it.issuer.calls == 1
        it.issuer.otherwise = Mint()
        await it.clock.advance(1.1)
        assert it.holder.usable


@pytest.mark.parametrize(
    "reply",
    [Answer(401, b"Unauthorized", ()), answer({"message": "blocked"}, 403), answer({"code": 10001, "msg": "busy"})],
)
@pytest.mark.parametrize("before", [(), (Mint(300),)])
async def test_an_unknown_refusal_is_tried_again_every_half_minute(before, reply):
    async with holding(*before, otherwise=reply) as it:
        await it.clock.advance(240.0 + 130.0)
        began_s = it.issuer.started_s[len(before)]
        assert [round(moment - began_s) for moment in it.issuer.started_s[len(before) :]][:5] == [0, 30, 60, 90, 120]
        it.issuer.otherwise = Mint()
        await it.clock.advance(30.0)
        assert it.holder.usable


async def test_t5_retry_after_reaches_the_caller():
    async with holding(otherwise=answer({}, 429, (b"retry-after", b"20"))) as it:
        await it.clock.advance(5.0)
        with pytest.raises(TokenUnavailable) as caught:
            await it.holder.token()
        assert caught.value.retry_after_s == 15.0


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("garbage", "sso.example answered 200 with a body that is not JSON"),
        (
            "html",
            "sso.example answered 200 with an HTML page (Sign in) instead of a token; check credentials.corp.token_url",
        ),
        ("empty", "sso.example answered 200 with an empty body"),
        ("null", "sso.example answered without a token; the reply has access_token, expires_in"),
        ("crlf", "sso.example returned a token with characters that a bearer token must not contain (RFC 6750 2.1)"),
        ("code", "sso.example answered 200 with an error: 50301: busy"),
        (
            "invalid_client",
            f"{REFUSED}sso.example answered 401: invalid_client: No; next attempt in 27 s{RELOAD}",
        ),
    ],
)
async def test_t6_invalid_token_is_reported_with_source_and_reason(fault, reason):
    async with holding(otherwise=reply(fault)) as it:
        await it.clock.advance(3.0)
        with pytest.raises(TokenUnavailable) as caught:
            await it.holder.token()
        due = "" if fault == "invalid_client" else "; next attempt in 1 s"
        assert caught.value.message == f"no token for credential corp: {reason}{due}"


async def test_t7_token_expired_on_arrival_causes_one_fetch_for_all_requests_and_is_not_returned():
    async with holding(otherwise=reply("dead")) as it:
        tasks = await it.asked(50)
        await it.clock.advance(1.9)
        assert await outcomes(tasks) == ["TokenUnavailable"] * 50
        assert it.issuer.calls == 4


async def test_t7_an_issuer_slower_than_its_tokens_live_is_named():
    async with holding(otherwise=Mint(2, delay_s=3.0)) as it:
        tasks = await it.asked(1)
        await it.clock.advance(3.0)
        assert await outcomes(tasks) == ["TokenUnavailable"]
        assert "expired on arrival: 2.0 s of lifetime, and fetching it took 3.0 s" in str(tasks[0].exception())


@pytest.mark.parametrize("life", [0.3, 1, 2, 3])
async def test_t8_lives_of_seconds_work_at_one_call_per_four_fifths_of_a_life(life):
    async with holding(otherwise=Mint(life)) as it:
        got = []
        for _ in range(300):
            tasks = await it.asked(2)
            await it.clock.advance(0.1)
            for task in tasks:
                if task.done():
                    assert alive(it, task.result()) or it.clock.now() - task.result().expires_s <= 0.1
                    got.append(task.result())
                task.cancel()
        assert got
        assert it.issuer.calls <= 2 + 30 / max(1.0, life * 0.8)
        assert it.holder.status().failures == 0


@pytest.mark.parametrize(
    ("life", "expires_in_s", "lifetime_source"),
    [
        (None, 235.0, LifetimeSource.DEFAULT),
        ("300", 295.0, LifetimeSource.REPLY),
        (300.0, 295.0, LifetimeSource.REPLY),
        (300_000, 3595.0, LifetimeSource.REPLY),
        ("2027-01-15T08:05:00Z", 295.0, LifetimeSource.REPLY),
        (1_800_000_300_000, 295.0, LifetimeSource.REPLY),
        (True, 235.0, LifetimeSource.DEFAULT),
    ],
)
async def test_t9_every_form_of_a_life_is_understood(life, expires_in_s, lifetime_source):
    async with holding(otherwise=Mint(life)) as it:
        await settle()
        assert (it.holder.status().expires_in_s, it.holder.status().lifetime_source) == (expires_in_s, lifetime_source)


async def test_t9_a_jwt_states_its_own_lifetime():
    clock = DrivenClock()
    text = signed(iat=clock.wall(), exp=clock.wall() + 100)
    async with RunningHolder(clock, ScriptedIssuer(clock, otherwise=Mint(300_000, text))) as it:
        await settle()
        assert (it.holder.status().expires_in_s, it.holder.status().lifetime_source) == (94.0, LifetimeSource.JWT)


async def test_t10_the_same_token_again_makes_no_refresh_loop():
    """A metadata server gives the same token until 30 s before its end."""
    async with holding() as it:
        for moment in range(300):
            left = 300 - moment
            it.issuer.otherwise = Mint(left, text="old") if left > 30 else Mint(300, text="new")
            await it.clock.advance(1.0)
        assert [round(moment) for moment in it.issuer.started_s] == [1000, 1240, 1270]
        assert (await it.holder.token()).text == "new"


async def test_t10_issuer_with_one_token_is_called_once_a_second_at_most():
    async with holding() as it:
        for moment in range(600):
            it.issuer.otherwise = Mint(max(300 - moment / 2, 0), text="only")
            await it.clock.advance(0.5)
        gaps = [late - early for early, late in zip(it.issuer.started_s, it.issuer.started_s[1:], strict=False)]
        assert min(gaps) >= 1.0
        assert it.issuer.calls < 15


@pytest.mark.parametrize("skew_s", [-120.0, 120.0])
async def test_t11_clock_skew_of_two_minutes_is_harmless_with_the_issuers_date(skew_s):
    clock = DrivenClock()
    theirs = clock.wall() + skew_s
    reply = answer({"access_token": "abc", "expires_at": theirs + 300}, 200, date(theirs))
    async with RunningHolder(clock, ScriptedIssuer(clock, reply)) as it:
        await settle()
        assert it.holder.status().expires_in_s == 293.0


@pytest.mark.parametrize(("lifetime_s", "fraction_s"), [(6, 0.584), (6, 0.546), (6, 0.680), (30, 0.95)])
@pytest.mark.parametrize("skew_s", [-120.0, 0.0, 1.9, 120.0])
async def test_t11_a_date_of_whole_seconds_lets_no_dead_token_out(lifetime_s, fraction_s, skew_s):
    clock = DrivenClock(wall=1_800_000_000.0 + fraction_s)
    theirs = clock.wall() + skew_s
    reply = answer(
        {"code": 0, "data": {"token": "abc", "expireAt": round((theirs + lifetime_s) * 1000)}}, 200, date(theirs)
    )
    async with RunningHolder(
        clock, ScriptedIssuer(clock, reply, otherwise=Broken()), http_json(json={"id": "bot"})
    ) as it:
        await settle()
        assert it.holder.usable
        await clock.advance(0.95 * lifetime_s - 2.5)
        assert it.holder.usable
        await clock.advance(0.05 * lifetime_s + 2.499)
        assert it.holder.current() is None


async def test_t11_an_expiry_in_the_past_means_skew_and_the_default_holds():
    clock = DrivenClock()
    reply = answer({"access_token": "abc", "expires_at": clock.wall() - 60})
    async with RunningHolder(clock, ScriptedIssuer(clock, reply)) as it:
        await settle()
        assert (it.holder.status().expires_in_s, it.holder.status().lifetime_source) == (235.0, LifetimeSource.DEFAULT)


async def test_t11_a_jump_of_our_wall_clock_changes_no_life():
    async with holding() as it:
        await it.clock.advance(100.0)
        it.clock.jump_wall(-86_400.0)
        assert it.holder.status().expires_in_s == 195.0
        it.clock.jump_wall(2 * 86_400.0)
        assert it.holder.status().expires_in_s == 195.0
        assert it.issuer.calls == 1


async def test_t12_a_thousand_requests_over_expiry_cause_one_fetch_and_none_fails():
    async with holding(Mint(), Mint(delay_s=0.5)) as it:
        await settle()
        tasks = []
        it.clock.suspend(294.9)
        for _ in range(10):
            tasks += await it.asked(100)
            await it.clock.advance(0.1)
        assert set(await outcomes(tasks)) == {"token-1", "token-2"}
        assert it.issuer.calls == 2


async def test_t13_a_401_renews_once_for_all():
    async with holding(Mint(), Mint(delay_s=1.0)) as it:
        await settle()
        good = it.holder.current()
        assert good is not None
        waiting = []
        for _ in range(500):
            assert it.holder.reject(good.text)
            waiting.append(asyncio.create_task(it.holder.token(instead_of=good.text)))
        await it.clock.advance(1.0)
        assert await outcomes(waiting) == ["token-2"] * 500
        assert it.holder.reject(good.text)
        assert (await it.holder.token(instead_of=good.text)).text == "token-2"
        assert it.issuer.calls == 2


async def test_t13_a_wrong_credential_makes_no_storm():
    async with holding() as it:
        await settle()
        for _ in range(118):
            if token := it.holder.current():
                it.holder.reject(token.text)
            await it.clock.advance(0.5)
        assert it.issuer.calls == 1 + 6


async def test_t14_a_token_without_a_rejection_is_kept():
    """A 403 is passed on by the caller without `reject`: no renewal comes of it."""
    async with holding() as it:
        for _ in range(100):
            await it.holder.token()
        assert it.issuer.calls == 1


async def test_t15_disconnecting_clients_do_not_cancel_the_fetch():
    async with holding(Mint(delay_s=2.0)) as it:
        tasks = await it.asked(320)
        tasks[0].cancel()
        await settle()
        for task in tasks[1:300]:
            task.cancel()
        await it.clock.advance(2.0)
        assert (await outcomes(tasks))[300:] == ["token-1"] * 20
        assert it.issuer.calls == 1


async def test_t16_returned_token_is_not_withdrawn():
    async with holding() as it:
        await settle()
        token = await it.holder.token()
        await it.clock.advance(400.0)
        assert token.text == "token-1"


async def test_t17_a_rotated_secret_is_used_within_5_seconds_of_a_refusal():
    secret = ["secret-of-yesterday"]
    clock = DrivenClock()
    issuer = ScriptedIssuer(clock)
    issuer.accepts = "secret-of-today"
    async with RunningHolder(clock, issuer, oauth2(client_secret=Secret(lambda: secret[0]))) as it:
        for _ in range(50):
            assert await outcomes(await it.asked(1)) == ["TokenUnavailable"]
            await clock.advance(0.5)
        assert issuer.calls == 1
        secret[0] = "secret-of-today"
        await clock.advance(5.0)
        assert it.holder.usable
        assert issuer.calls == 2


async def test_t17_refusals_do_not_lock_the_account():
    async with holding(otherwise=refused()) as it:
        for _ in range(60):
            assert set(await outcomes(await it.asked(50))) == {"TokenUnavailable"}
            await it.clock.advance(10.0)
        assert [round(moment - 1000) for moment in it.issuer.started_s] == [0, 30, 90, 210, 450]


async def test_t17_another_wrong_secret_restarts_the_attempts():
    secret = ["wrong-secret-1"]
    clock = DrivenClock()
    issuer = ScriptedIssuer(clock, otherwise=refused())
    async with RunningHolder(clock, issuer, oauth2(client_secret=Secret(lambda: secret[0]))):
        await clock.advance(100.0)
        secret[0] = "wrong-secret-2"
        await clock.advance(40.0)
        assert [round(moment - 1000) for moment in issuer.started_s] == [0, 30, 90, 102, 132]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_t18_no_redirect_is_followed(status):
    reply = Answer(status, b"", ((b"location", b"https://evil.example/steal?x=1"),))
    async with holding(otherwise=reply) as it:
        await it.clock.advance(30.0)
        assert {request.url for request in it.issuer.requests} == {"https://sso.example/token"}
        assert "redirect to evil.example" in (it.holder.status().last_error or "")


async def test_t19_a_reply_of_400_mb_is_read_to_64_kib():
    async with holding(Answer(pieces=[b"x" * 65_536] * 6_400)) as it:
        await settle()
        assert it.issuer.bytes_read == 2 * 65_536
        assert "larger than 65536 bytes" in (it.holder.status().last_error or "")


@pytest.mark.parametrize("asleep_s", [296.0, 3600.0, 86_400.0])
async def test_t20_expired_token_is_not_returned_after_a_suspend(asleep_s):
    async with holding() as it:
        await it.clock.advance(10.0)
        it.clock.suspend(asleep_s)
        assert it.holder.current() is None
        assert not it.holder.usable
        assert await outcomes(await it.asked(10)) == ["token-2"] * 10
        assert it.issuer.calls == 2


async def test_t20_a_stop_in_the_middle_of_a_fetch_is_survived():
    async with holding(Mint(delay_s=1.0)) as it:
        tasks = await it.asked(3)
        it.clock.suspend(400.0)
        await it.clock.advance(4.0)
        assert set(await outcomes(tasks)) <= {"TokenUnavailable", "token-2"}
        assert it.holder.usable


async def test_t22_nothing_belongs_to_a_loop_before_the_start():
    clock = DrivenClock()
    made_elsewhere = await asyncio.to_thread(lambda: RunningHolder(clock, ScriptedIssuer(clock)))
    async with made_elsewhere as it:
        assert (await it.holder.token()).text == "token-1"


async def test_t23_two_credentials_do_not_harm_each_other():
    clock = DrivenClock()
    chat = RunningHolder(clock, ScriptedIssuer(clock, Mint(), otherwise=Hang()), name="chat")
    login = Answer(body=b'{"data": {"token": "embed-token", "expireTime": 300}}', headers=JSON)
    embed = RunningHolder(clock, ScriptedIssuer(clock, otherwise=login), http_json(json={"id": "bot"}), name="embed")
    async with chat, embed:
        await clock.advance(600.0)
        assert not chat.holder.usable
        assert (await embed.holder.token()).text == "embed-token"
        assert (embed.holder.status().failures, chat.holder.status().credential) == (0, "chat")


async def test_t24_what_a_closed_holder_still_fetches_is_dropped():
    async with holding(Mint(delay_s=2.0)) as it:
        await it.clock.advance(1.0)
        await it.holder.aclose()
        await it.clock.advance(5.0)
        assert it.holder.current() is None
        assert it.redactor.mask("token-1") == "token-1"


async def test_t20_after_a_suspend_the_refresh_task_notices_within_5_seconds_without_traffic():
    async with holding() as it:
        await it.clock.advance(10.0)
        it.clock.suspend(3600.0, delays_timers=True)  # as where timers use CLOCK_MONOTONIC
        await it.clock.advance(5.0)
        assert it.holder.usable


async def test_an_error_without_a_text_after_a_token_names_what_to_check():
    async with holding(answer({"access_token": "good", "expires_in": 300}), otherwise=answer({"code": 1})) as it:
        await it.holder.token()
        it.clock.suspend(300.5)
        with pytest.raises(TokenUnavailable) as caught:
            await it.holder.token()
    assert "answered 200 with an error: code 1; next attempt in 30 s" in caught.value.message
    assert "Check the client and the secret in credentials.corp." in caught.value.message
