"""Key sets and turns, with a driven clock: which token waits for what, how long, and what is remembered."""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from gatepass.auth.authenticator import Authenticator
from gatepass.auth.caller import Caller
from gatepass.auth.jwt_callers import REMEMBERED_BYTES, SIGNATURES_PER_S, JwtCallers
from gatepass.auth.jwt_verdict import KeySet, Token, verify
from gatepass.auth.key_sets import MOST_WAITING, KeySetFault, KeySetHolder
from gatepass.config.access import hash_key
from gatepass.config.model import Config
from gatepass.errors import InvalidApiKey, InvalidToken, KeySetUnavailable, NotAllowed, Overloaded
from gatepass.types import ClientRequest
from tests.jwt_signer import Clients, SigningKey, key_set
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

    def __init__(self, issuer: FakeIssuer) -> None:
        self.issuer, self.clock = issuer, DrivenClock()
        jwt = {"issuer": ISSUER, "audience": "api://gatepass", "callers": [ROW]}
        access = {"jwt": [jwt], "keys": [{"name": "batch", "hash": hash_key(KEY)}]}
        config = Config.model_validate({"upstreams": {"u": {"base_url": "https://u/v1"}}, "access": access})
        self.holder = KeySetHolder("access.jwt[0]", ISSUER, issuer.fetch, self.clock, None, None)
        self.callers = JwtCallers(config.access.jwt, [self.holder], self.clock)
        self.authenticator = Authenticator(config, self.callers)

    def token(self, key: SigningKey = FIRST, *, life_s: float = 2 * DAY_S, **changed: Any) -> str:
        return key.sign(Clients(ISSUER, self.clock.wall(), life_s=life_s).claims(**changed))

    async def enter(self, *texts: str) -> Caller:
        """The caller of a request with these texts in Authorization, x-api-key and api-key."""
        fields = [(b"authorization", f"Bearer {texts[0]}".encode())]
        fields += [(name, text.encode()) for name, text in zip((b"x-api-key", b"api-key"), texts[1:], strict=False)]
        request = ClientRequest("id", "POST", "/v1/chat/completions", tuple(fields), "127.0.0.1", 0.0)
        known = await self.authenticator.prepare(request, self.clock.wall())
        return self.authenticator.authenticate(request, self.clock.wall(), known=known)

    async def enters_at_once(self, *texts: str) -> bool:
        """Whether the request needs no time of the clock: with an answer, or with a 401 or 503."""
        return (await self.begin(*texts)).done()

    async def begin(self, *texts: str) -> asyncio.Task[Caller]:
        task = asyncio.create_task(self.enter(*texts))
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


FAULTY = [
    *(b"<html>maintenance</html>", b"", b'{"keys": null}', b"[" * 50_000),
    *(b'{"keys": []}', key_set({**FIRST.jwk, "use": "enc"})),
]


@pytest.mark.parametrize("document", FAULTY)
async def test_a_document_that_is_no_key_set_replaces_nothing(door, document, caplog):
    caplog.set_level(logging.INFO, "gatepass.callers")
    await started(door)
    door.issuer.document = document
    await door.clock.advance(900)
    assert door.issuer.asked == 2
    assert (await door.enter(door.token())).name == "people"
    assert door.holder.fault.removeprefix("its key set ") in (
        "is no JSON",
        "has no list `keys`",
        "has no keys for signatures",
    )
    assert [one.message for one in caplog.records] == ["key_set_fetched", "key_set_failed"]
    await door.clock.advance(60)
    assert len(caplog.records) == 2  # the same fault is logged once


@pytest.mark.parametrize("document", FAULTY)
async def test_a_document_that_is_no_key_set_is_a_503_as_the_first(door, document):
    door.issuer.document = document
    await started(door)
    with pytest.raises(KeySetUnavailable):
        await door.enter(door.token())


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
    assert (len(waiting), door.issuer.asked) == (MOST_WAITING, 2)
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
    waiting = [await door.begin(door.token(REPLACED, sub=f"u{number}")) for number in range(50)]
    await door.clock.advance(1)
    assert len(checked) == 50
    door.issuer.document = key_set(REPLACED)
    door.issuer.release()
    await settle()
    assert len(checked) == 51
    await door.clock.advance(1)
    assert ({one.result().name for one in waiting}, len(checked)) == ({"people"}, 100)


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
    assert len(refused) == 99  # the first had no wait


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
    for number in range(300 * (waits_for == "turn")):
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


async def test_two_hundred_signatures_a_second_are_checked_and_the_others_wait_for_two(door):
    await started(door)
    waiting = [await door.begin(door.token(sub=f"u{number}")) for number in range(500)]
    late = await refused(waiting)
    assert len(late) == 99  # 401 of 500 have a turn within two seconds
    assert {(one.status, one.code) for one in late} == {(503, "overloaded")}
    assert all(2.0 < (one.retry_after_s or 0) < 2.1 for one in late)
    await door.clock.advance(1)
    assert sum(one.done() for one in waiting) - len(late) == SIGNATURES_PER_S + 1
    await door.clock.advance(1)
    assert all(one.done() for one in waiting)


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


async def test_remembered_tokens_have_a_bound_and_the_oldest_use_goes(door):
    await started(door)
    filler = "x" * 10_000
    used = door.token()
    await door.enter(used)
    for number in range(600):
        await door.clock.advance(0.01)
        await door.enter(door.token(sub=f"u{number}", filler=filler))
        await door.enter(used)
        assert door.callers._seen_bytes <= REMEMBERED_BYTES
    held = sum(len(text) for text in door.callers._seen)
    assert REMEMBERED_BYTES - 400_000 < held <= door.callers._seen_bytes
    assert used in door.callers._seen
    assert 250 < len(door.callers._seen) < 330


async def test_a_token_larger_than_the_memory_is_refused_or_forgotten_and_breaks_nothing(door):
    await started(door)
    with pytest.raises(InvalidApiKey):
        await door.enter(door.token(filler="x" * REMEMBERED_BYTES))
    assert (door.callers._seen_bytes, len(door.callers._seen)) == (0, 0)
    await door.clock.advance(1)
    assert (await door.enter(door.token())).name == "people"


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
