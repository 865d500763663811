"""Key sets and turns, with a driven clock: which token waits for what, how long, and what is remembered."""

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest

from gatepass.auth.authenticator import Authenticator
from gatepass.auth.caller import Caller
from gatepass.auth.jwt_callers import (
    AT_ONCE,
    LOOP_SHARE,
    MOST_WAITING,
    REMEMBERED,
    REMEMBERED_BYTES,
    SIGNATURES_PER_S,
    JwtCallers,
    network_of,
)
from gatepass.auth.jwt_verdict import KeySet, Token, verify
from gatepass.auth.key_sets import MOST_WAITING as MOST_WAITING_FOR_KEYS
from gatepass.auth.key_sets import KeySetFault, KeySetHolder
from gatepass.config.access import hash_key
from gatepass.config.model import Config
from gatepass.errors import InvalidApiKey, InvalidToken, KeySetUnavailable, NotAllowed, Overloaded
from gatepass.types import ClientRequest
from tests.jwt_signer import Clients, SigningKey, encoded, key_set
from tests.unit.clock import DrivenClock, settle

ISSUER = "https://login.corp.example/realms/a"
FIRST, SECOND = SigningKey("k1", "ES256"), SigningKey("k2", "EdDSA")
ROW = {"claim": "roles", "contains": "llm-user", "name": "people"}
KEY = "gp-0123456789abcdef"
DAY_S = 86_400.0


class FakeIssuer:
    """Answers with `document`, or with a fault; while `is_slow`, only after `release`."""

    def __init__(self, document: bytes = key_set(FIRST)) -> None:
        self.document = document
        self.fault = ""
        self.again_s = 900.0
        self.asked = 0
        self.is_slow = False
        self._open = asyncio.Event()

    async def fetch(self) -> tuple[bytes, float]:
        self.asked += 1
        if self.is_slow:
            await self._open.wait()
        if self.fault:
            raise KeySetFault(self.fault)
        return self.document, self.again_s

    def release(self) -> None:
        self.is_slow = False
        self._open.set()


class Door:
    """The authenticator of one issuer and one key, and what tests ask it."""

    def __init__(self, issuer: FakeIssuer, rows: Sequence[Mapping[str, Any]] = (ROW,)) -> None:
        self.issuer, self.clock = issuer, DrivenClock()
        jwt = {"issuer": ISSUER, "audience": "api://gatepass", "callers": list(rows)}
        access = {"jwt": [jwt], "keys": [{"name": "batch", "hash": hash_key(KEY)}]}
        config = Config.model_validate({"upstreams": {"u": {"base_url": "https://u/v1"}}, "access": access})
        self.holder = KeySetHolder("access.jwt[0]", ISSUER, issuer.fetch, self.clock, None, None)
        self.callers = JwtCallers(config.access.jwt, [self.holder], self.clock)
        self.authenticator = Authenticator(config, self.callers)

    def token(self, key: SigningKey = FIRST, *, life_s: float = 2 * DAY_S, **changed: Any) -> str:
        return key.sign(Clients(ISSUER, self.clock.wall(), life_s=life_s).claims(**changed))

    async def enter(self, *texts: str, peer: str = "127.0.0.1") -> Caller:
        """The caller of a request with these texts in Authorization, x-api-key and api-key."""
        fields = [(b"authorization", f"Bearer {texts[0]}".encode())]
        fields += [(name, text.encode()) for name, text in zip((b"x-api-key", b"api-key"), texts[1:], strict=False)]
        request = ClientRequest("id", "POST", "/v1/chat/completions", tuple(fields), peer, 0.0)
        known = await self.authenticator.prepare(request, self.clock.wall())
        return self.authenticator.authenticate(request, self.clock.wall(), known=known)

    async def enters_at_once(self, *texts: str) -> bool:
        """Whether the request needs no time of the clock: with an answer, or with a 401 or 503."""
        return (await self.begin(*texts)).done()

    async def begin(self, *texts: str, peer: str = "127.0.0.1") -> asyncio.Task[Caller]:
        task = asyncio.create_task(self.enter(*texts, peer=peer))
        await settle()
        task.add_done_callback(lambda done: None if done.cancelled() else done.exception())  # a test may not ask
        return task


@pytest.fixture
async def door():
    made = Door(FakeIssuer())
    yield made
    await made.holder.aclose()


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tokens whose signatures are checked."""
    found: list[str] = []

    def verifying(token: Token, keys: KeySet, fetched: str) -> None:
        found.append(token.text)
        verify(token, keys, fetched)

    monkeypatch.setattr("gatepass.auth.jwt_callers.verify", verifying)
    return found


async def started(door: Door) -> None:
    door.holder.start()
    await settle()


async def test_forty_cold_callers_fetch_the_keys_once(door):
    door.issuer.is_slow = True
    await started(door)
    waiting = [await door.begin(door.token(sub=f"u{number}")) for number in range(40)]
    assert (door.issuer.asked, [one.done() for one in waiting]) == (1, [False] * 40)
    door.issuer.release()
    await door.clock.advance(1)
    assert {one.result().name for one in waiting} == {"people"}
    assert len({one.result().identity for one in waiting}) == 40
    assert door.issuer.asked == 1


async def test_a_start_without_the_issuer_is_a_503_and_keys_work(door):
    door.issuer.fault = "login.corp.example refused the connection"
    await started(door)
    with pytest.raises(KeySetUnavailable) as raised:
        await door.enter(door.token())
    error = raised.value
    assert (error.status, error.code, error.retry_after_s) == (503, "key_set_unavailable", 10.0)
    assert (error.setting, door.issuer.fault in error.message) == ("access.jwt[0]", False)
    assert (await door.enter(KEY)).name == "batch"
    await door.clock.advance(4)
    with pytest.raises(KeySetUnavailable) as raised:
        await door.enter(door.token())
    assert (raised.value.retry_after_s, door.issuer.asked) == (6.0, 1)
    # the background asks again every 10 s, so that the first token after the repair is good
    door.issuer.fault = ""
    await door.clock.advance(6)
    assert door.issuer.asked == 2
    assert (await door.enter(door.token())).name == "people"


async def test_a_broken_token_is_a_401_while_no_keys_are_known(door):
    door.issuer.fault = "down"
    await started(door)
    for changed in ({"exp": 5}, {"aud": "x"}, {"sub": ""}, {"iss": "https://other.example"}):
        with pytest.raises(InvalidToken):
            await door.enter(door.token(**changed))


async def test_the_last_keys_stay_for_a_day(door):
    await started(door)
    known = door.token(life_s=3 * DAY_S)
    await door.enter(known)
    door.issuer.fault = "down"
    await door.clock.advance(DAY_S - 1)
    fresh = door.token()
    assert (await door.enter(known)).name == "people"
    assert (await door.enter(fresh)).name == "people"
    await door.clock.advance(2)
    for text in (known, door.token()):
        with pytest.raises(KeySetUnavailable):
            await door.enter(text)
    door.issuer.fault = ""
    await door.clock.advance(10)
    assert (await door.enter(known)).name == "people"


SHORT = SigningKey("k1", bits=1024)
FAULTY = [
    *(b"<html>maintenance</html>", b"", b'{"keys": null}', b"[" * 50_000),
    *(b'{"keys": []}', key_set({**FIRST.jwk, "use": "enc"})),
    *(key_set(SHORT), key_set({**FIRST.jwk, "y": FIRST.jwk["x"]}, SHORT), b'{"keys": [{"kty": "RSA", "kid": "k1"}]}'),
]


@pytest.mark.parametrize("document", FAULTY)
async def test_a_document_that_is_no_key_set_replaces_nothing(door, document, caplog):
    caplog.set_level(logging.INFO, "gatepass.callers")
    await started(door)
    door.issuer.document = document
    await door.clock.advance(900)
    assert door.issuer.asked == 2
    assert (await door.enter(door.token())).name == "people"
    assert door.holder.fault.removeprefix("its key set ").partition(";")[0] in (
        "is no JSON",
        "has no list `keys`",
        "has no keys for signatures",
    )
    assert (door.holder.status().keys, door.holder.status().fault) == (1, door.holder.fault)
    assert [one.message for one in caplog.records] == ["key_set_fetched", "key_set_failed"]
    await door.clock.advance(60)
    assert len(caplog.records) == 2  # the same fault is logged once


@pytest.mark.parametrize("document", FAULTY)
async def test_a_document_that_is_no_key_set_is_a_503_as_the_first(door, document):
    door.issuer.document = document
    await started(door)
    with pytest.raises(KeySetUnavailable):
        await door.enter(door.token())


async def test_a_bad_key_beside_a_good_one_is_told_and_hides_nothing(door, caplog):
    caplog.set_level(logging.INFO, "gatepass.callers")
    door.issuer.document = key_set({**SHORT.jwk, "kid": "k1"}, FIRST, SECOND)
    await started(door)
    assert (await door.enter(door.token())).name == "people"
    why = "1 of 3 keys cannot be used (kid k1: it has 1024 bits, not 2048 to 16384)"
    status = door.holder.status()
    assert (status.keys, status.unusable, status.fault) == (2, why, None)
    [logged] = caplog.records
    assert (logged.message, logged.levelname, vars(logged)["fields"]["reason"]) == ("key_set_fetched", "WARNING", why)
    door.issuer.document = key_set(FIRST)
    await door.clock.advance(900)
    assert (door.holder.status().keys, door.holder.status().unusable) == (1, None)


async def test_keys_are_made_between_other_work_when_the_set_arrives(door, monkeypatch):
    made = list[int]()

    def counting(self: KeySet) -> Iterator[None]:
        for _ in make(self):
            made.append(len(turns))
            yield

    turns, make = list[int](), KeySet.make
    monkeypatch.setattr(KeySet, "make", counting)

    async def other_work() -> None:
        while len(made) < 40:
            turns.append(1)
            await asyncio.sleep(0)

    door.issuer.document = key_set(*[FIRST] * 40)
    other = asyncio.create_task(other_work())
    await started(door)
    await other
    assert len(set(made)) >= 39  # each key in another turn of the loop
    before = len(made)
    assert (await door.enter(door.token())).name == "people"
    assert len(made) == before  # no request makes one


async def test_the_background_fetches_when_the_answer_is_too_old(door):
    door.issuer.again_s = 300.0
    await started(door)
    await door.clock.advance(299)
    assert door.issuer.asked == 1
    await door.clock.advance(1)
    assert door.issuer.asked == 2
    await door.clock.advance(3000)
    assert door.issuer.asked == 12


async def test_a_new_key_is_found_with_its_first_token(door):
    await started(door)
    await door.clock.advance(20)
    door.issuer.document = key_set(FIRST, SECOND)
    assert (await door.enter(door.token(SECOND))).name == "people"
    assert door.issuer.asked == 2


async def test_unknown_keys_fetch_once_in_ten_seconds(door):
    await started(door)
    await door.clock.advance(20)
    for number in range(100):
        with pytest.raises(InvalidToken, match="fetched 0 s ago"):
            await door.enter(door.token(SigningKey(f"x{number}", "EdDSA")))
    assert door.issuer.asked == 2
    await door.clock.advance(9)
    door.issuer.document = key_set(SECOND)
    with pytest.raises(InvalidToken, match=r"The token has the kid k2, .*\(fetched 9 s ago\)"):
        await door.enter(door.token(SECOND))
    await door.clock.advance(1)
    assert (await door.enter(door.token(SECOND))).name == "people"
    assert door.issuer.asked == 3


REPLACED = SigningKey("k1", "ES256", number=1)
"""Another key under the `kid` of FIRST."""


async def test_a_new_key_under_an_old_kid_is_found_with_its_first_token(door):
    await started(door)
    old = door.token()
    await door.enter(old)
    await door.clock.advance(20)
    door.issuer.document = key_set(REPLACED)
    new = await door.begin(door.token(REPLACED))
    await door.clock.advance(1)
    assert (new.result().name, door.issuer.asked) == ("people", 2)
    with pytest.raises(InvalidToken) as raised:  # the replaced key ends at once
        await door.enter(old)
    assert raised.value.case == "jwt_signature"


async def test_wrong_signatures_fetch_once_in_ten_seconds_and_good_tokens_do_not_wait(door):
    await started(door)
    known = door.token()
    await door.enter(known)
    await door.clock.advance(20)
    door.issuer.is_slow = True
    forged = [await door.begin(door.token(REPLACED, sub=f"u{number}")) for number in range(150)]
    await door.clock.advance(1)
    waiting = [one for one in forged if not one.done()]
    assert (len(waiting), door.issuer.asked) == (MOST_WAITING_FOR_KEYS, 2)
    assert await door.enters_at_once(known)
    assert await door.enters_at_once(door.token(sub="new"))  # its key is right
    door.issuer.release()
    await door.clock.advance(1)
    assert {getattr(one.exception(), "case", "") for one in forged} == {"jwt_signature"}
    await door.clock.advance(7)
    with pytest.raises(InvalidToken, match=r"fetched 8 s ago") as raised:
        await door.enter(door.token(REPLACED))
    assert (door.issuer.asked, raised.value.should_retry) == (2, None)  # Claude Code then fetches another token
    await door.clock.advance(1)
    door.issuer.document = key_set(REPLACED)
    new = await door.begin(door.token(REPLACED))
    await door.clock.advance(1)
    assert (new.result().name, door.issuer.asked) == ("people", 3)


async def test_signatures_of_a_replaced_key_take_their_turn_again(door, checked):
    await started(door)
    await door.clock.advance(20)
    door.issuer.is_slow = True
    waiting = [await door.begin(door.token(REPLACED, sub=f"u{number}")) for number in range(80)]
    await door.clock.advance(1)
    assert len(checked) == 80
    door.issuer.document = key_set(REPLACED)
    door.issuer.release()
    await settle()
    assert len(checked) == 80 + AT_ONCE
    await door.clock.advance(1)
    assert ({one.result().name for one in waiting}, len(checked)) == ({"people"}, 160)


async def test_an_operator_fetches_again_at_once(door):
    await started(door)
    old = door.token()
    await door.enter(old)
    await door.clock.advance(1)
    door.issuer.document = key_set(SECOND)
    door.holder.retry()
    await settle()
    assert door.issuer.asked == 2
    with pytest.raises(InvalidToken) as raised:
        await door.enter(old)
    assert (raised.value.case, door.issuer.asked) == ("jwt_kid", 2)  # the bound of 10 s begins anew


async def test_a_removed_key_ends_its_remembered_tokens(door):
    await started(door)
    removed, kept = door.token(), door.token(SECOND)
    door.issuer.document = key_set(FIRST, SECOND)
    await door.clock.advance(900)
    await door.enter(removed)
    await door.clock.advance(0.01)
    await door.enter(kept)
    door.issuer.document = key_set(SECOND)
    await door.clock.advance(900)
    with pytest.raises(InvalidToken) as raised:
        await door.enter(removed)
    assert raised.value.case == "jwt_kid"
    assert (await door.enter(kept)).name == "people"


async def test_the_same_document_keeps_remembered_tokens(door, checked):
    await started(door)
    text = door.token()
    for _ in range(5):
        await door.enter(text)
        await door.clock.advance(900)
    assert (door.issuer.asked, len(checked)) == (6, 1)


async def test_a_key_set_that_changes_while_a_token_waits_for_its_turn_refuses_no_good_token(door):
    await started(door)
    await door.clock.advance(20)
    waiting = [await door.begin(door.token(sub=f"u{number}")) for number in range(100)]
    door.issuer.document = key_set(FIRST, SECOND)
    assert (await door.begin(door.token(SECOND))).done() is False  # its unknown key fetches again, and then it waits
    await door.clock.advance(2)
    assert {one.result().name for one in waiting} == {"people"}
    assert door.issuer.asked == 2


async def test_a_key_that_is_removed_while_a_token_waits_verifies_nothing(door):
    await started(door)
    await door.clock.advance(20)
    waiting = [await door.begin(door.token(sub=f"u{number}")) for number in range(100)]
    door.issuer.document = key_set(SECOND)
    await door.begin(door.token(SECOND))
    await door.clock.advance(2)
    refused = [one for one in waiting if isinstance(one.exception(), InvalidToken)]
    assert len(refused) == 100 - AT_ONCE  # the others had no wait


async def test_a_slow_key_set_delays_nobody_whose_key_is_known(door):
    await started(door)
    await door.clock.advance(20)
    door.issuer.is_slow = True
    unknown = await door.begin(door.token(SECOND))
    assert not unknown.done()
    assert await door.enters_at_once(door.token())
    assert await door.enters_at_once(KEY)
    door.issuer.document = key_set(FIRST, SECOND)
    door.issuer.release()
    await door.clock.advance(1)
    assert unknown.result().name == "people"


@pytest.mark.attack("invented names of keys by the hundred")
@pytest.mark.parametrize("forged", ["kid", "signature"])
async def test_an_address_that_fills_the_wait_for_keys_keeps_nobody_out(door, forged):
    """Their tokens have a new key, and the issuer answers late."""
    await started(door)
    await door.clock.advance(20)
    door.issuer.document, door.issuer.is_slow = key_set(FIRST, SECOND), True
    keys = [SigningKey(f"x{number}", "EdDSA") if forged == "kid" else REPLACED for number in range(150)]
    bad = [await door.begin(door.token(key, sub=f"u{at}"), peer="10.0.0.1") for at, key in enumerate(keys)]
    await door.clock.advance(1)
    people = [await door.begin(door.token(SECOND, sub=f"p{number}"), peer=f"10.0.1.{number}") for number in range(5)]
    assert (sum(not one.done() for one in bad), any(one.done() for one in people)) == (MOST_WAITING_FOR_KEYS - 5, False)
    for one in bad[:50]:
        one.cancel()
    more = await door.begin(door.token(SECOND, sub="late"), peer="10.0.0.1")  # leaving gives the places back
    door.issuer.release()
    await door.clock.advance(1)
    assert {one.result().name for one in (*people, more)} == {"people"}
    assert (door.issuer.asked, door.holder._waiting.waiting) == (2, {})


async def test_a_client_that_leaves_does_not_end_the_fetch_of_others(door):
    door.issuer.is_slow = True
    first, second = await door.begin(door.token(sub="u1")), await door.begin(door.token(sub="u2"))
    first.cancel()
    await settle()
    assert (first.cancelled(), second.done(), door.issuer.asked) == (True, False, 1)
    door.issuer.release()
    await door.clock.advance(1)
    assert second.result().name == "people"


async def test_a_token_is_remembered_until_it_ends(door):
    await started(door)
    text = door.token(life_s=300)
    await door.enter(text)
    await door.clock.advance(329)
    assert (await door.enter(text)).name == "people"
    await door.clock.advance(1)
    with pytest.raises(InvalidToken, match="The token expired 30 s ago"):
        await door.enter(text)


@pytest.mark.parametrize("waits_for", ["keys", "turn"])
async def test_a_token_that_ends_while_it_waits_is_expired(door, checked, waits_for):
    door.issuer.is_slow = waits_for == "keys"
    await started(door)
    for number in range(1500 * (waits_for == "turn")):
        await door.begin(door.token(sub=f"u{number}"))
    before = len(checked)
    waiting = await door.begin(text := door.token(exp=door.clock.wall() - 29))
    assert not waiting.done()
    await door.clock.advance(1.2)
    door.issuer.release()
    await door.clock.advance(2)
    error = waiting.exception()
    assert isinstance(error, InvalidToken)
    assert (error.case, text in checked[before:]) == ("jwt_expired", False)


async def test_a_clock_that_is_set_forward_ends_a_remembered_token(door):
    await started(door)
    text = door.token(life_s=300)
    await door.enter(text)
    door.clock.jump_wall(400)
    with pytest.raises(InvalidToken, match="expired 100 s ago"):
        await door.enter(text)


async def refused(waiting: list[asyncio.Task[Caller]]) -> list[Overloaded]:
    return [error for one in waiting if one.done() and isinstance(error := one.exception(), Overloaded)]


async def test_a_thousand_signatures_a_second_are_checked_and_the_others_wait_for_two(door, checked):
    await started(door)
    waiting = [await door.begin(door.token(sub=f"u{number}")) for number in range(2500)]
    # one more is the next one
    assert (len(checked), len(await refused(waiting))) == (AT_ONCE, 2500 - AT_ONCE - 1 - MOST_WAITING)
    await door.clock.advance(1)
    assert len(checked) == AT_ONCE + SIGNATURES_PER_S
    await door.clock.advance(1.5)
    late = await refused(waiting)
    assert len(late) == 2500 - AT_ONCE - MOST_WAITING
    assert {(one.status, one.code, one.retry_after_s) for one in late} == {(503, "overloaded", 2.0)}
    assert all(one.done() for one in waiting)
    assert len(checked) == 2500 - len(late)
    await door.clock.advance(1)
    assert (door.callers._turns.waiting, door.callers._turns.holding) == ({}, set())


def forged(door: Door, number: int) -> str:
    head, body, signature = door.token().split(".")
    return f"{head}.{body}.{signature[:-8]}{number:06d}{signature[-2:]}"


@pytest.mark.attack("bad callers' tokens by the thousand")
async def test_the_turns_of_new_tokens_go_round_by_address(door):
    await started(door)
    bad = [await door.begin(forged(door, number), peer="10.0.0.1") for number in range(1000)]
    people = [await door.begin(door.token(sub=f"u{number}"), peer=f"10.0.1.{number}") for number in range(20)]
    assert not any(one.done() for one in people)
    await door.clock.advance(AT_ONCE / SIGNATURES_PER_S)
    assert {one.result().name for one in people} == {"people"}
    assert sum(one.done() for one in bad) < 100


@pytest.mark.attack("bad callers' tokens by the thousand")
async def test_an_address_that_fills_the_queue_makes_room_for_others(door):
    await started(door)
    bad = [await door.begin(forged(door, number), peer="10.0.0.1") for number in range(AT_ONCE + 1 + MOST_WAITING)]
    before = len(await refused(bad))
    people = [await door.begin(door.token(sub=f"u{number}"), peer="10.0.0.2") for number in range(20)]
    assert (before, len(await refused(bad)), len(await refused(people))) == (0, 20, 0)
    await door.clock.advance(AT_ONCE / SIGNATURES_PER_S)
    assert {one.result().name for one in people} == {"people"}


@pytest.mark.attack("bad callers' tokens by the thousand")
async def test_clients_that_leave_give_their_turns_back(door, checked):
    await started(door)
    for number in range(AT_ONCE):
        await door.begin(forged(door, number))
    for number in range(300):
        leaving = await door.begin(forged(door, 100 + number))
        leaving.cancel()
        await settle()
    assert len(checked) == AT_ONCE
    people = [await door.begin(door.token(sub=f"u{number}")) for number in range(AT_ONCE)]  # of the same address
    await door.clock.advance(AT_ONCE / SIGNATURES_PER_S)
    assert {one.result().name for one in people} == {"people"}


async def test_a_client_that_leaves_as_the_next_one_gives_it_to_the_next(door, checked):
    await started(door)
    for number in range(AT_ONCE):
        await door.begin(door.token(sub=f"u{number}"))
    leaving, following = await door.begin(door.token(sub="leaves")), await door.begin(door.token(sub="next"))
    leaving.cancel()
    await door.clock.advance(1 / SIGNATURES_PER_S)
    assert (leaving.cancelled(), following.result().name, len(checked)) == (True, "people", AT_ONCE + 1)


@pytest.mark.attack("bad callers' tokens by the thousand")
@pytest.mark.parametrize("check_s", [0.0001, 0.002, 0.0125])
async def test_checks_that_take_long_take_a_small_share_of_the_loop(door, monkeypatch, check_s):
    await started(door)

    def slow(*_: object) -> None:
        door.clock.suspend(check_s)
        begun.append(door.clock.now())

    begun, begin_s = list[float](), door.clock.now()
    monkeypatch.setattr("gatepass.auth.jwt_callers.verify", slow)
    for number in range(1500):
        await door.begin(door.token(sub=f"u{number}"))

    def share_s() -> float:
        """How long all checks may have taken so far."""
        return float(LOOP_SHARE * (door.clock.now() - begin_s + AT_ONCE / SIGNATURES_PER_S) + check_s)

    assert len(begun) * check_s <= share_s()
    await door.clock.advance(1)
    assert len(begun) * check_s <= share_s()
    expected = min(SIGNATURES_PER_S, LOOP_SHARE / check_s) * (door.clock.now() - begin_s)
    assert expected * 0.9 < len(begun) < expected + AT_ONCE + 2


@pytest.mark.attack("bad callers' tokens by the thousand")
async def test_tokens_that_end_while_they_wait_are_refused_a_few_at_once(door, monkeypatch):
    await started(door)
    for number in range(AT_ONCE):
        await door.begin(door.token(sub=f"u{number}"))
    ending = [await door.begin(door.token(sub=f"e{at}", exp=door.clock.wall() - 29.9)) for at in range(500)]
    left, turns = [500], door.callers._turns

    def call_later(*arguments: Any) -> Any:
        left.append(len(turns.waiting) + len(turns.holding))
        return DrivenClock.call_later(door.clock, *arguments)

    monkeypatch.setattr(door.clock, "call_later", call_later)
    door.clock.suspend(0.2)
    door.clock.jump_wall(0.2)
    await door.clock.advance(0)
    await settle()
    assert max(before - after for before, after in pairwise(left)) == AT_ONCE
    assert {getattr(one.exception(), "case", "") for one in ending} == {"jwt_expired"}


async def test_only_checks_that_were_made_count(door, checked):
    await started(door)
    for number in range(AT_ONCE - 1):
        await door.begin(door.token(sub=f"u{number}"))
    ending = [await door.begin(door.token(sub=f"e{number}", exp=door.clock.wall() - 29)) for number in range(1)]
    again = [await door.begin(text := door.token(sub="x")) for _ in range(1)]
    again += [await door.begin(text) for _ in range(200)]
    ending += [await door.begin(door.token(sub=f"f{number}", exp=door.clock.wall() - 29.9999)) for number in range(200)]
    last = await door.begin(door.token(sub="last"))
    await door.clock.advance(AT_ONCE / SIGNATURES_PER_S)
    assert {one.result().name for one in again} == {"people"}
    assert {getattr(one.exception(), "case", "") for one in ending[1:]} == {"jwt_expired"}
    assert (last.result().name, len(checked)) == ("people", AT_ONCE + 2)


def test_turns_are_of_an_ipv4_address_and_of_an_ipv6_network():
    assert network_of("192.0.2.1") == network_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert network_of("192.0.2.2") != network_of("192.0.2.1")
    assert network_of("2001:db8:1:2::1") == network_of("2001:db8:1:2:ffff:ffff:ffff:ffff")
    assert network_of("2001:db8:1:2::1") != network_of("2001:db8:1:3::1")
    assert network_of("::1") != network_of("::ffff:192.0.2.1")
    assert network_of("fe80::1%eth0") == network_of("fe80::2%eth0")
    assert [network_of(text) for text in ("", "unix:", "a.example")] == ["", "unix:", "a.example"]


@pytest.mark.attack("bad callers' tokens by the thousand")
async def test_bad_tokens_delay_neither_keys_nor_tokens_that_were_seen(door):
    await started(door)
    seen = [door.token(sub=f"u{number}") for number in range(10)]
    for text in seen:
        await door.clock.advance(0.01)
        await door.enter(text)
    head, body, signature = door.token().split(".")
    for second in range(2):
        for number in range(2000):
            forged = signature[:-8] + f"{second * 2000 + number:06d}" + signature[-2:]
            asyncio.create_task(door.enter(f"{head}.{body}.{forged}")).add_done_callback(asyncio.Task.exception)
        await settle()
        for text in seen:
            assert await door.enters_at_once(text)
            assert await door.enters_at_once(text, text)  # Claude Code sends it twice
        assert await door.enters_at_once(KEY)
        await door.clock.advance(1)
    await door.clock.advance(2)
    assert (await door.enter(door.token(sub="new"))).name == "people"


@pytest.mark.attack("bad callers' tokens by the thousand")
async def test_a_token_that_no_signature_decides_takes_no_turn(door):
    await started(door)
    bad = [
        *(door.token(SigningKey("unknown", "EdDSA")), door.token(aud="x"), door.token(exp=5)),
        *(door.token(iss="https://other.example"), "opaque-4711"),
    ]
    for _ in range(500):
        for text in bad:
            with pytest.raises(InvalidToken):
                await door.enter(text)
    assert await door.enters_at_once(door.token())


async def test_many_requests_with_one_new_token_check_it_once(door, checked):
    door.issuer.is_slow = True
    await started(door)
    text = door.token()
    waiting = [await door.begin(text) for _ in range(40)]
    door.issuer.release()
    await door.clock.advance(1)
    assert {one.result().name for one in waiting} == {"people"}
    assert len(checked) == 1


async def test_a_token_without_a_row_is_checked_once_and_refused_each_time(door, checked):
    await started(door)
    text = door.token(roles=[], life_s=300)
    for _ in range(2 * SIGNATURES_PER_S):
        with pytest.raises(NotAllowed, match=r"gatepass looked at roles \(a list\)"):
            await door.enter(text)
    assert len(checked) == 1
    await door.clock.advance(0.01)
    assert await door.enters_at_once(door.token())  # no turn was taken
    with pytest.raises(InvalidApiKey, match="two different API keys"):
        await door.enter(text, KEY)
    # it ends as an accepted one does
    door.issuer.document = key_set(SECOND)
    door.issuer.again_s = 5.0
    await door.clock.advance(330)
    with pytest.raises(InvalidToken, match="expired 30 s ago"):
        await door.enter(text)
    other = door.token(SECOND, roles=[], life_s=DAY_S)
    for keys, refusal in (((FIRST, SECOND), NotAllowed), ((FIRST,), InvalidToken)):
        door.issuer.document = key_set(*keys)
        await door.clock.advance(900)
        with pytest.raises(refusal):
            await door.enter(other)


ROWS = [{"claim": "roles", "contains": "llm-admin", "name": "admins", "role": "admin"}, ROW | {"name_from": "mail"}]


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signatures are not checked: to make 20,000 takes a minute."""
    monkeypatch.setattr("gatepass.auth.jwt_callers.verify", lambda *_: None)


def unsigned(door: Door, sub: str, filler: int = 1430, **changed: Any) -> str:
    body = encoded(Clients(ISSUER, door.clock.wall(), life_s=DAY_S).claims(sub=sub, filler="x" * filler, **changed))
    return f"{encoded({'alg': 'ES256', 'kid': 'k1'})}.{body}.{'A' * 86}"


async def verify_all(door: Door, texts: Iterable[str]) -> None:
    for number, text in enumerate(texts):
        if number % AT_ONCE == 0:
            await door.clock.advance(AT_ONCE / SIGNATURES_PER_S)
        token = door.callers.read(text)
        assert token is not None
        await door.callers.verdict(token, "127.0.0.1")


def remembered(door: Door, texts: Iterable[str]) -> int:
    return sum(door.callers.remembered(text, door.clock.wall()) is not None for text in texts)


@pytest.mark.parametrize("people", [1240, REMEMBERED])
@pytest.mark.usefixtures("trusting")
async def test_each_of_many_people_is_remembered(people):
    door = Door(FakeIssuer(), ROWS)
    await started(door)
    ends_s = door.clock.wall() + DAY_S

    def texts() -> Iterator[str]:  # made twice, because all of them take 50 MB
        for number in range(people):
            mail = f"person.{number}@corp.example"
            yield unsigned(door, f"{number:08x}-person", mail=mail, exp=ends_s, iat=...)

    assert 2250 < len(next(texts())) < 2350
    await verify_all(door, texts())
    assert remembered(door, texts()) == people
    assert door.callers._seen_bytes < REMEMBERED_BYTES
    await door.holder.aclose()


@pytest.mark.parametrize("kind", ["people", "one person", "people with long names"])
@pytest.mark.usefixtures("trusting")
async def test_what_is_remembered_takes_twelve_mebibytes_at_most(kind):
    door = Door(FakeIssuer(), ROWS)
    await started(door)
    mail = "\N{SNOWMAN WITHOUT SNOW}" * 100 if "long" in kind else "a.person@corp.example"

    def texts() -> Iterator[str]:
        for number in range(REMEMBERED + 2000):  # some are forgotten: a dict that has grown is larger
            yield unsigned(door, "u" if kind == "one person" else f"u{number}", number=number, filler=1, mail=mail)

    await verify_all(door, texts())
    callers = door.callers
    parts: list[object] = [callers._seen, callers._newest, callers._older, *callers._newest, *callers._seen]
    for one in callers._seen.values():
        parts += [one, one.user, one.ends_s, one.identity]
    # the allocator gives multiples of 16 bytes
    held = sum(-(-sys.getsizeof(part) // 16) * 16 for part in {id(part): part for part in parts}.values())
    expected = REMEMBERED if "long" not in kind else REMEMBERED_BYTES // 774
    assert len(door.callers._seen) == expected
    assert held <= door.callers._seen_bytes <= REMEMBERED_BYTES
    await door.holder.aclose()


@pytest.mark.usefixtures("trusting")
async def test_a_person_s_older_tokens_are_forgotten_first(monkeypatch):
    monkeypatch.setattr("gatepass.auth.jwt_callers.REMEMBERED", 100)
    door = Door(FakeIssuer(), ROWS)
    await started(door)
    people = [unsigned(door, f"u{number}") for number in range(50)]
    of_one = [unsigned(door, "many", number=number) for number in range(300)]
    await verify_all(door, [*people, *of_one[:100]])
    assert (remembered(door, people), remembered(door, of_one[50:100])) == (50, 50)
    used = of_one[50]
    assert remembered(door, [used]) == 1
    await verify_all(door, of_one[100:148])
    assert (remembered(door, people), remembered(door, of_one[99:148]), remembered(door, [used])) == (50, 49, 1)
    # without older ones, that of the person who was not here for longest
    others = [unsigned(door, f"v{number}") for number in range(100)]
    assert remembered(door, people[:1]) == 1
    await verify_all(door, others)
    assert (remembered(door, others), remembered(door, people), remembered(door, of_one)) == (100, 0, 0)
    assert {len(door.callers._seen), len(door.callers._newest) + len(door.callers._older)} == {100}
    await door.clock.advance(DAY_S + 60)
    assert remembered(door, others) == 0
    assert (door.callers._seen, door.callers._newest, door.callers._older, door.callers._seen_bytes) == ({}, {}, {}, 0)
    await door.holder.aclose()


@pytest.mark.parametrize("first", ["llm-admin", "llm-user"])
async def test_two_tokens_of_one_person_keep_their_own_verdicts(first):
    door = Door(FakeIssuer(), ROWS)
    await started(door)
    tokens = {role: door.token(roles=[role, "llm-user"], mail=f"{role}@corp") for role in ("llm-admin", "llm-user")}
    order = sorted(tokens, key=lambda role: role != first)
    expected = {"llm-admin": ("admins", "admin", ""), "llm-user": ("people", "caller", "llm-user@corp")}
    identities = set()
    for role in order * 3:
        found = await door.enter(tokens[role])
        assert (found.name, found.role, found.user) == expected[role]
        assert found == await door.enter(tokens[role])  # what is remembered is what was verified
        identities.add(found.identity)
    assert len(identities) == 1
    await door.holder.aclose()


async def test_a_token_that_is_too_long_is_refused_and_not_remembered(door):
    await started(door)
    with pytest.raises(InvalidApiKey):
        await door.enter(door.token(filler="x" * REMEMBERED_BYTES))
    assert (door.callers._seen_bytes, len(door.callers._seen)) == (0, 0)
    await door.clock.advance(1)
    assert (await door.enter(door.token())).name == "people"


async def test_what_is_remembered_has_no_part_of_a_token(door):
    await started(door)
    text = door.token(preferred_username="alice-4711")
    await door.enter(text)
    shown = f"{door.callers._seen}{door.callers._newest}{door.callers._older}"
    assert not [part for part in (*text.split("."), "u1'", "alice-4711") if part in shown]


PAIRS: dict[str, Callable[[str, str, str], tuple[str, ...]]] = {
    "a token twice": lambda good, _, __: (good, good),
    "a token beside another login": lambda good, _, __: ("sk-ant-oat01-login", good),
    "a key beside another login": lambda _, __, ___: ("sk-ant-oat01-login", KEY),
    "a key beside a token of an unknown issuer": lambda _, __, foreign: (foreign, KEY),
    "a token and a key": lambda good, _, __: (good, KEY),
    "a key and a token": lambda good, _, __: (KEY, good),
    "an expired token and a key": lambda _, expired, __: (expired, KEY),
    "a good token and an expired one": lambda good, expired, __: (good, expired),
    "a token and a key in a JSON object": lambda good, _, __: (f'{{"api_key": "{KEY}"}}', good),
    "three places": lambda good, _, __: (good, "other", KEY),
}


@pytest.mark.parametrize("pair", PAIRS)
async def test_two_callers_in_one_request_are_refused(door, pair):
    await started(door)
    good = door.token()
    texts = PAIRS[pair](good, door.token(exp=5), door.token(iss="https://other.example"))
    known = {"a token twice", "a token beside another login"}
    keys = {"a key beside another login", "a key beside a token of an unknown issuer"}
    for _ in range(2):  # a remembered token too
        if pair in known | keys:
            assert (await door.enter(*texts)).name == ("people" if pair in known else "batch")
            continue
        with pytest.raises(InvalidApiKey, match="two different API keys"):
            await door.enter(*texts)
        await door.enter(good)


async def test_a_key_that_comes_as_a_text_and_in_a_json_object_is_one(door):
    assert (await door.enter(KEY, f'{{"api_key": "{KEY}"}}')).name == "batch"


async def test_keys_of_two_issuers_end_apart(door):
    # one that is down and cold does not refuse the tokens of the other
    other = Door(FakeIssuer())
    other.issuer.fault = "down"
    both = JwtCallers(
        [door.callers.entries[0], other.callers.entries[0].model_copy(update={"issuer": ["https://b.example"]})],
        [door.holder, other.holder],
        door.clock,
    )
    door.authenticator.tokens = both
    assert (await door.enter(door.token())).name == "people"
    with pytest.raises(KeySetUnavailable):
        await door.enter(door.token(iss="https://b.example"))
    await other.holder.aclose()


async def test_log_of_a_key_set_has_no_key(door, caplog):
    caplog.set_level(logging.DEBUG)
    await started(door)
    assert [one.message for one in caplog.records] == ["key_set_fetched"]
    fields: Any = vars(caplog.records[0])["fields"]
    assert json.dumps(fields) == json.dumps({"issuer": ISSUER, "keys": 1})


async def test_a_fetch_that_breaks_is_a_503_for_those_who_wait(door):
    # a fault of gatepass's own in a fetch is the log's, not a 500 of each caller
    broken = RuntimeError("broken")

    async def breaking() -> tuple[bytes, float]:
        raise broken

    door.holder._fetch = breaking
    await started(door)
    await door.clock.advance(20)
    waiting = await door.begin(door.token())
    assert isinstance(waiting.exception(), KeySetUnavailable)
    door.holder._fetch = door.issuer.fetch
    await door.clock.advance(10)
    assert (await door.enter(door.token())).name == "people"
