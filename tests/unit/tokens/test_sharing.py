"""Several processes are one towards an issuer."""

import asyncio
import logging
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from gatepass.errors import Fault, TransportFault
from gatepass.tokens import build_source
from gatepass.tokens.failure import PROBE_S, FailureKind, FetchFailure
from gatepass.tokens.lifetime import LifetimeSource, Token, TokenKind
from gatepass.tokens.secrets import credential_fingerprint
from gatepass.tokens.sharing import (
    MAX_POLL_S,
    YIELD_LEAD_S,
    FailureRecord,
    SharedSource,
    SharedTokenNames,
    TokenRecord,
    is_shared,
)
from gatepass.types import OutboundRequest, Secret
from tests.memory import traced_memory
from tests.unit.clock import DrivenClock, settle
from tests.unit.store.memory import MemoryStore
from tests.unit.tokens.fleet import Fleet
from tests.unit.tokens.scripted import (
    Broken,
    Hang,
    IssuerReply,
    Mint,
    Reply,
    ScriptedIssuer,
    answer,
    cancelled_at_each_await,
    failure_of,
    oauth2,
    refused,
)

KINDS = ("oauth2", "http_json", "exec", "static", "api_key", "file")


def scripted(*replies: IssuerReply, otherwise: IssuerReply | None = None) -> ScriptedIssuer:
    return ScriptedIssuer(DrivenClock(), *replies, otherwise=otherwise)


@pytest.mark.parametrize(
    ("reply", "failing"),
    [
        (Mint(5, delay_s=0.5), False),
        (answer({"error": "temporarily_unavailable"}, 503), True),
        (Hang(), True),
    ],
    ids=["short lives", "an outage", "hangs"],
)
async def test_the_fetches_of_all_are_the_calls_that_the_issuer_saw(reply, failing):
    """Each is counted where it was asked; one that waited for it, or read its failure, has sent no request."""
    async with Fleet(scripted(otherwise=reply)) as fleet:
        for _ in range(240):
            await fleet.clock.advance(0.25)
        statuses = [replica.holder.status() for replica in fleet.replicas]
        ended = fleet.issuer.calls - fleet.issuer.under_way
        assert sum(status.fetches for status in statuses) == ended > 1
        assert 0 <= sum(status.failures for status in statuses) <= (ended if failing else 0)
        assert [status.last_error is not None for status in statuses] == [failing] * 4


async def test_a_shared_failure_is_logged_by_the_process_that_fetched(caplog):
    caplog.set_level(logging.DEBUG, logger="gatepass.tokens")
    async with Fleet(scripted(otherwise=refused())) as fleet:
        await fleet.clock.advance(5.0)
        statuses = [replica.holder.status() for replica in fleet.replicas]
    assert sorted((status.fetches, status.failures) for status in statuses) == [(0, 0), (0, 0), (0, 0), (1, 1)]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "token_fetch_failed"
    ]
    found = [record.__dict__["fields"] for record in caplog.records if record.getMessage() == "token_failure_shared"]
    assert found == [{"credential": "corp", "reason": statuses[0].last_error}] * 3


async def test_a_failure_that_quotes_an_earlier_token_is_masked_in_the_store():
    echo = answer({"error": "invalid_client", "error_description": "token-1 has ended"}, 401)
    async with Fleet(scripted(Mint(60), otherwise=echo), count=2) as fleet:
        await fleet.clock.advance(50.0)
        name = SharedTokenNames.of(credential_fingerprint(fleet.settings)).failure
        record = str((await fleet.replicas[0].store.get([name])).values[name])
        assert "*** has ended" in record
        assert "token-1" not in record


@pytest.mark.parametrize("delay_s", [0.0, 0.1])
async def test_clocks_that_differ_by_minutes_and_a_slow_store_make_no_token_older_or_younger(delay_s):
    """By each process's own clock the token ends when it really ends, or a little before."""
    issuer = scripted(otherwise=Mint(300, delay_s=0.5))
    async with Fleet(issuer, ahead_s=(0.0, 120.0, -120.0, 5e8)) as fleet:
        for replica in fleet.replicas:
            replica.wire.delay_s = delay_s
        await fleet.clock.advance(100.0)
        late = await fleet.join(ahead_s=-3600.0)
        late.wire.delay_s = delay_s
        await fleet.clock.advance(2.0)
        true_end_s = issuer.started_s[0] + 300
        for replica in fleet.replicas:
            token = replica.holder.current()
            assert token is not None
            by_the_tests_clock_s = token.end_s - replica.clock.ahead_s
            assert true_end_s - 3 * delay_s - 1e-6 <= by_the_tests_clock_s <= true_end_s + 1e-6
        assert issuer.calls == 1


@pytest.mark.parametrize("state", ["down", "hung"])
async def test_store_outage_at_any_request_loses_no_token(state):
    """The store fails for all processes at the leader's n-th request, then at its n+1-th …"""
    for number in count(1):
        issuer = scripted(otherwise=Mint(300, delay_s=0.1))
        async with Fleet(issuer, count=3) as fleet:
            reached: list[int] = []

            def gone(request, fleet=fleet, number=number, reached=reached):
                if request == number:
                    reached.append(request)
                    for replica in fleet.replicas:
                        replica.wire.state = state

            fleet.replicas[0].wire.at_request = gone
            await fleet.clock.advance(1.0)
            assert None not in fleet.texts
            assert issuer.calls <= 3
            if not reached:
                break
    assert number > 5, "the store was asked"


async def test_a_fetch_that_is_cancelled_at_any_await_frees_the_lease_and_leaves_nothing_behind():
    clock = DrivenClock()
    store = MemoryStore(clock)
    issuer = ScriptedIssuer(clock, otherwise=Mint(0.0001))
    fetched = []

    async def begin():
        settings = oauth2()
        source = SharedSource(build_source("corp", settings, issuer, clock), settings, store, clock)
        fetched.append(await source.fetch())

    def check():
        assert store.leases.entries == {}
        assert issuer.under_way == 0
        assert len(asyncio.all_tasks()) == 1

    replies = await cancelled_at_each_await(begin, check)
    assert replies > 3
    assert len(fetched) == 1


async def test_value_issued_again_before_its_rejection_is_not_used():
    """Both hold the first token. One fetches the same again, the other's is rejected: only a new token helps."""
    async with Fleet(scripted(Mint(100, "a"), Mint(100, "a"), Mint(100, "b")), count=2) as fleet:
        await fleet.clock.advance(10.0)
        first, second = fleet.replicas
        assert (await first.source.fetch()).text == "a"
        await fleet.clock.advance(1.0)
        assert second.holder.reject("a")
        await fleet.clock.advance(1.0)
        assert second.text == "b"
        assert fleet.issuer.calls == 3


async def test_a_rejected_value_that_the_issuer_returns_again_is_used():
    async with Fleet(scripted(otherwise=Mint(300, "same")), count=2) as fleet:
        first, second = fleet.replicas
        await fleet.clock.advance(10.0)
        assert first.holder.reject("same")
        assert second.holder.reject("same")
        await fleet.clock.advance(1.0)
        assert fleet.texts == ["same"] * 2
        assert fleet.issuer.calls == 2
        assert not first.holder.reject("same")
        assert not second.holder.reject("same")


async def test_a_retry_of_all_processes_costs_one_call_and_begins_the_pauses_again():
    async with Fleet(scripted(otherwise=refused())) as fleet:
        await fleet.clock.advance(100.0)
        assert fleet.issuer.calls == 3
        for replica in fleet.replicas:
            assert replica.holder.retry()
        await fleet.clock.advance(20.0)
        assert fleet.issuer.calls == 4
        await fleet.clock.advance(15.0)
        assert fleet.issuer.calls == 5, "30 s later, as after the first refusal"
        fleet.issuer.otherwise = Mint()
        await fleet.clock.advance(5.0)
        assert fleet.texts == [None] * 4
        asked_last = max(fleet.replicas, key=lambda replica: replica.holder.status().fetches)
        for replica in fleet.replicas:
            if replica is not asked_last:  # the failure of another process does not stop a retry
                replica.holder.retry()
        await fleet.clock.advance(2.0)
        assert fleet.texts == ["token-1"] * 4
        assert fleet.issuer.calls == 6


async def test_refusals_are_counted_from_zero_after_a_recovery():
    issuer = scripted(refused(), Mint(60), refused(), Mint(60), otherwise=Hang())
    async with Fleet(issuer, count=2) as fleet:
        await fleet.clock.advance(40.0)
        assert fleet.texts == ["token-1"] * 2
        assert fleet.store.counters.entries == {}
        await fleet.clock.advance(48.5)  # its refresh is refused; half a minute later it is not
        assert issuer.calls == 3
        await fleet.clock.advance(32.0)
        assert fleet.texts == ["token-2"] * 2
        assert issuer.calls == 4


async def test_an_outage_costs_the_issuer_little_more_than_one_process_does_and_its_end_is_noticed_by_all():
    async def calls(replicas):
        issuer = scripted(otherwise=Broken())
        async with Fleet(issuer, count=replicas, jitter=0.3) as fleet:
            await fleet.clock.advance(60.0)
            while_down = issuer.calls
            issuer.otherwise = Mint()
            await fleet.clock.advance(4.0)
            assert None not in fleet.texts
            assert issuer.calls == while_down + 1
        return while_down

    alone = await calls(1)
    assert await calls(4) <= 2 * alone


@pytest.mark.parametrize("dies", [False, True])
async def test_the_return_of_a_hanging_issuer_is_noticed_within_the_fetch_timeout(dies):
    for outage_s in (1.0, 5.0, 9.9, 12.0, 26.0):
        issuer = scripted(otherwise=Hang())
        async with Fleet(issuer, jitter=0.5) as fleet:
            await fleet.clock.advance(outage_s / 2)
            if dies:
                await fleet.kill(next(replica for replica in fleet.replicas if replica.asks))
            await fleet.clock.advance(outage_s / 2)
            issuer.otherwise = Mint()
            await fleet.clock.advance(10.0 + YIELD_LEAD_S + MAX_POLL_S)
            assert None not in fleet.texts, outage_s


async def test_changed_secret_fetches_again_and_others_keep_their_token():
    secret = ["old-secret"]
    async with Fleet(scripted(otherwise=Mint(100)), count=2) as fleet:
        settings = oauth2(client_secret=Secret(lambda: secret[0]))
        changing = await fleet.join(settings)
        await fleet.clock.advance(1.0)
        assert fleet.issuer.calls == 2
        secret[0] = "new-secret"
        await fleet.clock.advance(80.0)
        assert fleet.issuer.calls == 4
        assert changing.text not in (fleet.replicas[0].text, "token-1", "token-2")
        changing.wire.names_read.clear()
        await fleet.clock.advance(10.0)
        read = {name for name in changing.wire.names_read if name.startswith("token:")}
        assert read == {changing.store.name_of(SharedTokenNames.of(credential_fingerprint(settings)).token)}


async def test_closed_holder_follows_its_token_in_the_store_no_more():
    async with Fleet(scripted(), count=1) as fleet:
        await fleet.clock.advance(10.0)
        (replica,) = fleet.replicas
        assert replica.wire.names_read
        await replica.holder.aclose()  # as after a reload that changed the credential
        replica.wire.names_read.clear()
        await fleet.clock.advance(10.0)
        assert replica.wire.names_read == set()


async def test_an_unreadable_secret_is_reported_by_the_source():
    def missing():
        raise ValueError("the file /run/secret cannot be read")

    clock = DrivenClock()
    issuer = ScriptedIssuer(clock)
    async with Fleet(issuer, count=1, settings=oauth2(client_secret=Secret(missing))) as fleet:
        failure = await failure_of(fleet.replicas[0].source.fetch())
        assert "client_secret: the file /run/secret cannot be read" in failure.reason
        assert fleet.replicas[0].wire.requests == []


@pytest.mark.parametrize(("life_s", "delay_s"), [(1, 2.0), (2, 1.9)])
async def test_a_token_that_arrives_expired_is_not_shared(life_s, delay_s):
    async with Fleet(scripted(otherwise=Mint(life_s, delay_s=delay_s)), count=2) as fleet:
        await fleet.clock.advance(3.0)
        assert ("put", "token") not in [request for each in fleet.replicas for request in each.wire.requests]


def test_tokens_are_shared_only_if_their_fingerprint_is_complete():
    credentials: list[Any] = [SimpleNamespace(type=kind) for kind in KINDS]
    assert {one.type for one in credentials if is_shared(one)} == {"oauth2", "http_json"}


async def test_process_that_waits_without_a_result_reports_it_after_its_timeout():
    async with Fleet(scripted(otherwise=Hang()), count=5) as fleet:
        await fleet.clock.advance(4.0)
        await fleet.kill(next(replica for replica in fleet.replicas if replica.asks))
        await fleet.clock.advance(6.4)
        errors = [str(replica.holder.status().last_error) for replica in fleet.replicas if not replica.asks]
        (error,) = set(errors)
        assert error.endswith("has no result after 10 s (timeout_s). Check the issuer, and the store")


async def test_a_process_that_cannot_reach_the_issuer_leads_every_second_time_at_most():
    async with Fleet(scripted(), count=3, jitter=0.0) as fleet:
        lost = fleet.replicas[0]
        lost.issuer_client.play = fails  # type: ignore[method-assign,assignment]  # raises, so its result has no type
        await fleet.clock.advance(2 * PROBE_S + 1.0)
        assert fleet.texts == ["token-1"] * 3
        assert fleet.issuer.calls == 1


async def fails(_: OutboundRequest) -> Reply:
    raise TransportFault(Fault.CONNECT, "no route")


async def test_rejected_values_take_no_memory():
    async with Fleet(scripted(), count=1) as fleet:
        (replica,) = fleet.replicas
        with traced_memory() as memory:
            for number in range(10_000):
                replica.source.forget_rejected(f"value-{number}")
        assert memory.kept_bytes < 10_000


@pytest.mark.parametrize(("born_s", "kept"), [(1.0, "another"), (-1.0, "token-1")])
async def test_a_token_does_not_replace_one_that_was_requested_later(born_s, kept):
    clock = DrivenClock(now=0.0)
    settings, store, issuer = oauth2(), MemoryStore(clock), ScriptedIssuer(clock, Mint(delay_s=6.0))
    source = SharedSource(build_source("corp", settings, issuer, clock), settings, store, clock)
    fetch = asyncio.create_task(source.fetch())
    await clock.advance(3.0)
    name = SharedTokenNames.of(credential_fingerprint(settings)).token
    another = TokenRecord(Token(Secret("another"), born_s, 300.0))
    await store.put(name, another.encoded(), 300.0)
    await clock.advance(3.0)
    record = TokenRecord.decoded((await store.get((name,))).values[name])
    assert record is not None
    assert (fetch.result().text, record.token.text) == ("token-1", kept)


@pytest.mark.parametrize(("moment_s", "used"), [(294.9, "stored"), (295.0, "token-1")])
async def test_a_token_of_the_store_is_used_until_it_expires(moment_s, used):
    clock = DrivenClock(now=0.0)
    settings, store, issuer = oauth2(), MemoryStore(clock), ScriptedIssuer(clock)
    name = SharedTokenNames.of(credential_fingerprint(settings)).token
    await store.put(name, TokenRecord(Token(Secret("stored"), 0.0, 300.0)).encoded(), 600.0)
    await clock.advance(moment_s)
    source = SharedSource(build_source("corp", settings, issuer, clock), settings, store, clock)
    assert (await source.fetch()).text == used


async def test_a_waiting_process_uses_the_offered_token():
    async with Fleet(scripted(otherwise=Hang()), count=1) as fleet:
        (replica,) = fleet.replicas
        asked = asyncio.create_task(replica.holder.token())
        await settle()
        assert replica.holder.adopt_shared(Token(Secret("from-elsewhere"), replica.clock.now(), 60.0))
        await settle()
        assert asked.result().text == "from-elsewhere"
        assert fleet.issuer.under_way == 0


async def test_a_token_of_a_secret_that_changed_meanwhile_is_not_stored_under_the_old_one():
    secret = ["old-secret"]
    settings = oauth2(client_secret=Secret(lambda: secret[0]))
    async with Fleet(scripted(), count=0, settings=settings) as fleet:
        replica = fleet.new_replica()
        fleet.replicas.append(replica)

        def rotates(request: int) -> None:
            secret[0] = "new-secret"

        replica.wire.at_request = rotates
        replica.start()
        await settle()
        assert b"new-secret" in fleet.issuer.requests[0].body
        assert replica.text == "token-1"
        assert not any(name.startswith("token") for name in fleet.store.values.entries)


TOKEN = Token(Secret("minted"), 90.0, 300.0, TokenKind.JWT, LifetimeSource.JWT)


def test_token_is_equal_after_the_store_and_each_record_is_its_own_and_prints_no_token():
    record = TokenRecord(TOKEN)
    back = TokenRecord.decoded(record.encoded())
    assert back is not None
    assert (back.id, back.token.text) == (record.id, "minted")
    assert replace(back.token, value=TOKEN.value) == TOKEN
    assert record != TokenRecord(TOKEN)
    assert "minted" not in repr(record)


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"{",
        b"{}",
        b'{"token":{"value":"x","requested_s":1,"lifetime_s":1,"kind":"new"},"id":"a"}',
        b'{"token":{"value":1,"requested_s":1,"lifetime_s":1},"id":"a"}',
    ],
)
def test_records_of_another_version_are_ignored(data):
    assert TokenRecord.decoded(data) is None
    assert FailureRecord.decoded(data) is None


@pytest.mark.parametrize(
    ("failure", "began_s", "refusals", "until_s"),
    [
        (FetchFailure("no", FailureKind.REFUSED), 999.0, 2, 1060.0),
        (FetchFailure("?", FailureKind.LIMITED), 1000.0, 1, 1030.0),
        (FetchFailure("oh"), 999.5, 0, 1001.5),
        (FetchFailure("oh"), 990.0, 0, 1000.0),
    ],
)
def test_a_failure_is_shared_with_the_rest_of_its_pause(failure, began_s, refusals, until_s):
    """The pause after a failure that may pass counts from the start of its fetch."""
    record = FailureRecord.decoded(FailureRecord.of(failure, "me", began_s, 1000.0, refusals).encoded())
    assert record is not None
    assert (record.owner, record.until_s) == ("me", until_s)
    reported = record.failure(999.0)
    assert (reported.reason, reported.kind) == (failure.reason, failure.kind)
    assert (reported.retry_after_s, reported.from_other_process) == (until_s - 999.0, True)


def test_a_failure_holds_for_the_others_until_its_hold_ends():
    record = FailureRecord.of(FetchFailure("no", FailureKind.REFUSED), "me", 1000.0, 1000.0, 1)
    assert record.applies_to("they", 1029.0)
    assert not record.applies_to("they", 1030.0)
    assert not record.applies_to("me", 1001.0)


def test_the_process_that_failed_lets_another_lead_for_a_moment_after_its_pause():
    record = FailureRecord.of(FetchFailure("oh"), "me", 1000.0, 1000.0, 0)
    moments = (1001.9, 1002.0, 1002.4, 1002.5)
    assert [moment for moment in moments if record.yields_lead("me", moment)] == [1002.0, 1002.4]
    assert not record.yields_lead("they", 1002.0)
