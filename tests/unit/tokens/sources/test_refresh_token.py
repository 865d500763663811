import asyncio
import json
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from gatepass.errors import Fault
from gatepass.tokens import FetchFailure, Token
from gatepass.tokens.failure import BUSY
from gatepass.tokens.issuer_error import TokenResponse
from gatepass.tokens.secrets import refresh_token_fingerprint
from gatepass.tokens.sources import refresh_token as rotation
from gatepass.tokens.sources.file import WatchedFile
from gatepass.tokens.sources.oauth2 import Oauth2Source
from gatepass.tokens.sources.refresh_token import (
    CANCEL_GRACE_S,
    FileRefreshTokenStore,
    MemoryRefreshTokenStore,
    RefreshTokenStore,
    is_bare,
    parse_stored,
    refresh_token_in,
)
from gatepass.types import Secret
from tests.unit.clock import DrivenClock, settle
from tests.unit.threads import OneThread
from tests.unit.tokens.scripted import (
    Broken,
    Hang,
    Mint,
    RunningHolder,
    ScriptedIssuer,
    answer,
    cancelled_at_each_await,
    failure_of,
    oauth2,
    refused,
)

FIRST = "refresh-token-1"


def rotating(number: int, **more: Any) -> Mint:
    return Mint(more={"refresh_token": f"refresh-token-{number}"}, **more)


def refreshing(**settings: Any):
    given = {"grant_type": "refresh_token", "refresh_token": Secret(FIRST)}
    return oauth2(**{**given, **settings})


def logging_in(**settings: Any):
    return oauth2(grant_type="password", username="bot", password=Secret("pass-word-1"), **settings)


class Stage:
    """A source over a scripted issuer; `again` is the same after a restart."""

    def __init__(self, settings: Any, *replies: Any, refresh_store: Any = None, otherwise: Any = None) -> None:
        self.clock = DrivenClock()
        self.issuer = ScriptedIssuer(self.clock, *replies, otherwise=otherwise)
        self.settings, self.refresh_store = settings, refresh_store
        self.source = self.again()

    def again(self, settings: Any = None) -> Oauth2Source:
        self.source = Oauth2Source("corp", settings or self.settings, self.issuer, self.clock, self.refresh_store)
        return self.source

    @property
    def shown(self) -> list[str]:
        """The form that each request signed in with."""
        forms = [parse_qs(request.body.decode()) for request in self.issuer.requests]
        return [form.get("refresh_token", form["grant_type"])[0] for form in forms]


class Spy:
    """A RefreshTokenStore in which a test sees and breaks everything."""

    is_persistent = True

    def __init__(self, text: str | None = None) -> None:
        self.text = text
        self.log: list[str] = []
        self.broken: str | None = None
        self.release: asyncio.Event | None = None
        self._memory = MemoryRefreshTokenStore(DrivenClock())

    def exclusive(self, within_s: float):
        self.log.append(f"turn within {within_s:g} s")
        return self._memory.exclusive(within_s)

    async def get(self) -> str | None:
        return self.text

    async def put(self, text: str) -> None:
        if self.release is not None:
            await self.release.wait()
        if self.broken:
            raise FetchFailure(self.broken)
        self.text = text
        self.log.append(f"put {json.loads(text)['refresh_token']}")


async def test_a_refresh_token_is_used_and_its_successor_after_it():
    stage = Stage(refreshing(scope="a b"), rotating(2), rotating(3), Mint())
    tokens = [await stage.source.fetch() for _ in range(4)]
    assert [token.text for token in tokens] == ["token-1", "token-2", "token-3", "token-4"]
    assert stage.shown == [FIRST, "refresh-token-2", "refresh-token-3", "refresh-token-3"]
    assert stage.issuer.requests[0].body == (
        b"grant_type=refresh_token&refresh_token=refresh-token-1"
        b"&client_id=me&client_secret=s3cr3t-of-the-client&scope=a+b"
    )


async def test_a_new_refresh_token_is_kept_before_the_access_token_is_given_away():
    spy = Spy()
    spy.release = asyncio.Event()
    stage = Stage(refreshing(), rotating(2), refresh_store=spy)
    fetched = asyncio.create_task(stage.source.fetch())
    await settle()
    assert stage.issuer.calls == 1
    assert not fetched.done()
    spy.release.set()
    assert isinstance(await fetched, Token)
    assert spy.log == ["turn within 10 s", "put refresh-token-2"]


async def test_only_a_new_refresh_token_is_written_and_also_one_beside_no_access_token():
    spy = Spy()
    stage = Stage(refreshing(), rotating(1), Mint(), answer({"refresh_token": "refresh-token-2"}), refresh_store=spy)
    await stage.source.fetch()
    await stage.source.fetch()
    await failure_of(stage.source.fetch())
    assert spy.log == [*["turn within 10 s"] * 3, "put refresh-token-2"]


async def test_refresh_token_file_has_precedence_over_the_store(tmp_path: Path):
    spy = Spy()
    stage = Stage(refreshing(refresh_token_file=str(tmp_path / "refresh")), rotating(2), refresh_store=spy)
    await stage.source.fetch()
    assert (spy.log, (tmp_path / "refresh").exists()) == ([], True)


@pytest.mark.parametrize(("build", "warnings"), [(logging_in, 0), (refreshing, 1)])
async def test_only_a_credential_that_cannot_log_in_again_is_warned_of_memory_once_for_all_its_sources(
    caplog, build, warnings
):
    spy = Spy()
    spy.is_persistent = False
    stage = Stage(build(), rotating(2), rotating(3), rotating(4), refresh_store=spy)
    await stage.source.fetch()
    await stage.source.fetch()
    await stage.again().fetch()  # another worker
    assert [record.message for record in caplog.records] == ["refresh_token_not_stored"] * warnings
    assert stage.shown[1:] == ["refresh-token-2", "refresh-token-3"]


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"token_url": "https://other.example/token"}, [FIRST, FIRST]),
        ({"client_id": "you"}, [FIRST, FIRST]),
        ({"refresh_token": Secret("of-a-new-login")}, [FIRST, "of-a-new-login"]),
        ({"scope": "more"}, [FIRST, "refresh-token-2"]),
        ({"client_secret": Secret("rotated")}, [FIRST, "refresh-token-2"]),
        ({"refresh_token": None}, [FIRST, "refresh-token-2"]),
        ({"refresh_token": None, "token_url": "https://other.example/token"}, [FIRST]),
        ({"refresh_token": None, "client_id": "you"}, [FIRST]),
    ],
)
async def test_a_kept_token_is_shown_to_the_issuer_and_client_of_its_chain_only(tmp_path: Path, change, shown):
    place = {"refresh_token_file": str(tmp_path / "refresh")}
    stage = Stage(refreshing(**place), rotating(2), rotating(3), rotating(4))
    await stage.source.fetch()
    with suppress(FetchFailure):
        await stage.again(refreshing(**place, **change)).fetch()
        await stage.again(refreshing(**place, **change)).fetch()
    assert stage.shown[:2] == shown
    assert len(shown) == 1 or stage.shown[2] == "refresh-token-3", "the chain goes on"


@pytest.mark.parametrize(
    "change",
    [
        *({"extra": {"tenant": Secret("B")}}, {"audience": "https://x"}, {"resource": "https://x"}, {"scope": "more"}),
        *({"username": "other"}, {"password": Secret("another")}, {"client_secret": Secret("rotated")}),
    ],
    ids=lambda change: next(iter(change)),
)
async def test_credentials_with_different_logins_have_different_refresh_tokens(tmp_path: Path, change):
    place = {"refresh_token_file": str(tmp_path / "refresh"), "extra": {"tenant": Secret("A")}}
    stage = Stage(logging_in(**place), rotating(2), rotating(3), rotating(4))
    await stage.source.fetch()
    changed = stage.settings.model_copy(update=change)
    assert refresh_token_fingerprint(changed) != refresh_token_fingerprint(stage.settings)
    await stage.again(changed).fetch()
    await stage.again(changed).fetch()
    assert stage.shown == ["password", "password", "refresh-token-3"]
    assert FIRST not in refresh_token_fingerprint(refreshing())


async def test_a_refresh_token_put_into_the_file_by_hand_is_tried_at_once(tmp_path: Path):
    file = tmp_path / "refresh"
    settings = refreshing(refresh_token=None, refresh_token_file=str(file))
    file.write_text("spent")
    clock, thread = DrivenClock(), OneThread.of_this_loop()
    issuer = ScriptedIssuer(clock, refused("invalid_grant", 400), rotating(2), otherwise=rotating(3))
    async with RunningHolder(clock, issuer, settings) as it:
        await thread.rest()
        assert it.holder.status().last_error == (
            "the issuer refused the client: sso.example answered 400: invalid_grant: No; sign in again, and put the new"
            " refresh token into refresh_token_file, as the file's only text"
        )
        file.write_text("of a new login")
        for _ in range(50):
            await clock.advance(0.1)
            await thread.rest()
        assert it.holder.usable
        for _ in range(100):
            await clock.advance(0.1)
            await thread.rest()
        assert issuer.calls == 2, "what gatepass writes itself is no news"
        assert "refresh-token-2" in file.read_text()


async def test_an_ended_refresh_token_is_reported_with_advice():
    stage = Stage(refreshing(), otherwise=refused("invalid_grant", 400))
    for _ in range(2):
        failure = await failure_of(stage.source.fetch())
        assert failure.is_refused
        assert failure.reason == (
            "the issuer refused the client: sso.example answered 400: invalid_grant: No; sign in again, and put the "
            "new refresh token into refresh_token"
        )
    assert stage.shown == [FIRST, FIRST], "one try for each fetch, so that a mistake of the issuer's heals"


async def test_no_request_is_sent_without_a_refresh_token(tmp_path: Path):
    stage = Stage(refreshing(refresh_token=None, refresh_token_file=str(tmp_path / "refresh")))
    failure = await failure_of(stage.source.fetch())
    assert (failure.is_refused, stage.issuer.calls) == (True, 0)
    assert failure.reason.startswith("there is no refresh token")


@pytest.mark.parametrize(
    ("settings", "grant", "no"),
    [
        (oauth2(refresh_token=Secret(FIRST)), "client_credentials", refused("invalid_grant", 400)),
        (logging_in(refresh_token=Secret(FIRST)), "password", refused("unauthorized_client", 400)),
        (logging_in(refresh_token=Secret(FIRST)), "password", refused("unsupported_grant_type", 400)),
        (logging_in(refresh_token=Secret(FIRST)), "password", answer({"error": "bad_refresh_token"})),
    ],
    ids=["invalid_grant", "unauthorized", "unsupported", "bad_refresh_token in 200"],
)
async def test_a_dead_refresh_token_falls_back_to_signing_in_and_is_not_tried_again(settings, grant, no):
    stage = Stage(settings, no, Mint(), Mint(), rotating(7), Mint())
    tokens = [await stage.source.fetch() for _ in range(4)]
    assert [token.text for token in tokens] == ["token-1", "token-2", "token-3", "token-4"]
    assert stage.shown == [FIRST, grant, grant, grant, "refresh-token-7"]


@pytest.mark.parametrize(
    "reply",
    [
        refused("invalid_client"),
        Broken(Fault.CLOSED),
        answer({"access_token": "null"}),
    ],
)
async def test_other_failures_of_a_refresh_cause_no_login(reply):
    stage = Stage(logging_in(refresh_token=Secret(FIRST)), otherwise=reply)
    await failure_of(stage.source.fetch())
    assert stage.shown == [FIRST]


async def test_a_login_gives_the_refresh_token_that_the_next_fetch_uses():
    stage = Stage(logging_in(), rotating(2), rotating(3), refused("invalid_grant", 400), rotating(4), Mint())
    for _ in range(4):
        await stage.source.fetch()
    assert stage.shown == ["password", "refresh-token-2", "refresh-token-3", "password", "refresh-token-4"]
    form = parse_qs(stage.issuer.requests[0].body.decode())
    assert (form["username"], form["password"]) == (["bot"], ["pass-word-1"])


async def test_a_refused_token_that_another_process_has_replaced_meanwhile_is_not_the_end():
    spy = Spy()

    class Racing(ScriptedIssuer):
        async def play(self, request):
            reply = await super().play(request)
            spy.text = rotation.StoredRefreshToken(
                "refresh-token-9", refresh_token_fingerprint(stage.settings)
            ).encoded()
            return reply

    stage = Stage(refreshing(), refresh_store=spy)
    stage.issuer = Racing(stage.clock, refused("invalid_grant", 400), rotating(10))
    assert (await stage.again().fetch()).text == "token-1"
    assert stage.shown == [FIRST, "refresh-token-9"]


@pytest.mark.parametrize("build", [refreshing, logging_in])
async def test_a_lease_that_is_never_granted_is_a_failure_within_the_time_of_the_whole(tmp_path: Path, build):
    place = str(tmp_path / "refresh")
    stage = Stage(build(refresh_token_file=place, timeout_s=7.0))
    async with FileRefreshTokenStore(place, stage.clock).exclusive(1.0):
        waiting = asyncio.create_task(failure_of(stage.source.fetch()))
        await stage.clock.advance(6.9)
        assert not waiting.done()
        await stage.clock.advance(0.2)
        assert "another process uses the refresh token" in (await waiting).reason
    assert stage.issuer.calls == 0


async def test_a_token_that_cannot_be_kept_is_used_on_and_kept_as_soon_as_that_goes(caplog):
    spy = Spy()
    spy.broken = "the disk is full"
    stage = Stage(refreshing(), rotating(2), Mint(), Mint(), refresh_store=spy)
    with caplog.at_level(logging.WARNING, "gatepass.tokens"):
        assert (await stage.source.fetch()).text == "token-1"
        await stage.source.fetch()
        spy.broken = None
        await stage.source.fetch()
        await stage.source.fetch()
    assert [record.fields["reason"] for record in caplog.records] == ["the disk is full"] * 2
    assert stage.shown == [FIRST, *["refresh-token-2"] * 3]
    assert [line for line in spy.log if line.startswith("put")] == ["put refresh-token-2"]


class Unreadable(Spy):
    async def get(self):
        raise FetchFailure("cannot be read")


async def test_if_the_newest_refresh_token_is_unknown_no_older_one_is_used_and_a_login_if_there_is_one(caplog):
    stage = Stage(refreshing(), refresh_store=Unreadable())
    assert (await failure_of(stage.source.fetch())).reason == "cannot be read"
    assert stage.issuer.calls == 0
    stage = Stage(logging_in(refresh_token=Secret(FIRST)), Mint(), refresh_store=Unreadable())
    with caplog.at_level(logging.WARNING, "gatepass.tokens"):
        assert (await stage.source.fetch()).text == "token-1"
    assert stage.shown == ["password"]
    [record] = caplog.records
    assert (record.message, record.fields) == (
        "refresh_token_not_read",
        {"credential": "corp", "reason": "cannot be read"},
    )


async def test_a_refresh_token_that_is_echoed_is_masked():
    echo = answer({"error": "invalid_grant", "error_description": f"{FIRST} has expired"}, 400)
    stage = Stage(refreshing(refresh_token=Secret("refresh-token-0")), rotating(1), echo)
    await stage.source.fetch()
    failure = await failure_of(stage.source.fetch())
    assert FIRST not in failure.reason
    assert stage.shown[1] == FIRST


async def test_cancelled_use_without_a_reply_ends_soon():
    stage = Stage(refreshing(), Hang(), Mint())
    fetched = asyncio.create_task(stage.source.fetch())
    await settle()
    fetched.cancel()
    await stage.clock.advance(CANCEL_GRACE_S - 0.1)
    assert not fetched.done()
    await stage.clock.advance(0.2)
    assert fetched.cancelled()
    assert (stage.issuer.open, stage.issuer.under_way) == (0, 0)
    assert (await stage.source.fetch()).text == "token-1", "its turn is over"


async def test_at_each_await_a_cancelled_fetch_loses_no_refresh_token_that_the_issuer_gave():
    begun: list[tuple[Stage, Spy]] = []

    def begin() -> Any:
        spy = Spy()
        begun.append((Stage(refreshing(), rotating(2), refresh_store=spy), spy))
        return begun[-1][0].source.fetch()

    def check() -> None:
        stage, spy = begun[-1]
        assert (stage.issuer.open, stage.issuer.under_way) == (0, 0)
        if stage.issuer.minted:
            assert spy.log[-1] == "put refresh-token-2"

    assert await cancelled_at_each_await(begin, check) > 5


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (None, None),
        ("  \n", None),
        ("bare-token\n", rotation.StoredRefreshToken("bare-token")),
        ('{"refresh_token": "kept-token", "fingerprint": "r"}', rotation.StoredRefreshToken("kept-token", "r")),
        (
            '{"refresh_token": "kept-token", "fingerprint": "r", "account": "a"}',
            rotation.StoredRefreshToken("kept-token", "r", "a"),
        ),
        ('{"refresh_token": "kept-token"}', rotation.StoredRefreshToken("kept-token")),
        ('{"refresh_token": "kept-token", "fingerprint": 5}', rotation.StoredRefreshToken("kept-token")),
        ('{"refresh_token": ""}', None),
        ('{"fingerprint": "r"}', None),
    ],
)
def test_stored_refresh_token_is_parsed(text, kept):
    assert parse_stored(text) == kept
    if kept is not None:
        assert parse_stored(kept.encoded()) == kept
        assert kept.token not in repr(kept)


def test_truncated_json_in_the_refresh_token_file_is_an_error():
    with pytest.raises(FetchFailure, match="neither a refresh token nor JSON"):
        parse_stored('{"refresh_token": "t')


@pytest.mark.parametrize(
    ("reply", "token"),
    [
        (TokenResponse(200, (), b'{"refresh_token": "a", "data": {"refresh_token": "b"}}'), "a"),
        (TokenResponse(200, (), b'{"data": {"refreshToken": "b"}}'), "b"),
        (TokenResponse(200, (), b'{"refresh_token": ""}'), None),
        (TokenResponse(200, (), b'{"refresh_token": null}'), None),
        (TokenResponse(200, (), b'["refresh_token"]'), None),
        (TokenResponse(200, (), b"<html>"), None),
        (TokenResponse(400, (), b'{"refresh_token": "a"}'), None),
    ],
)
def test_refresh_token_is_read_from_a_success_only(reply, token):
    assert refresh_token_in(reply) == token


def test_bare_texts_are_counted_and_texts_of_gatepass_are_not(tmp_path: Path):
    file = tmp_path / "refresh"
    mark = WatchedFile(str(file), lambda: 1_800_000_000.0, is_bare).mark()
    marks = [mark.reveal()]
    for text in ("first", "first", '{"refresh_token": "a"}', '{"refresh_token": "b"}', "second", "", "second"):
        file.write_text(text)
        marks.append(mark.reveal())
    file.unlink()
    marks.append(mark.reveal())
    assert marks == ["0", "1", "1", "1", "1", "2", "2", "3", "3"]


@pytest.fixture(params=["memory", "file"])
def stores(request, tmp_path):
    """A factory of refresh token stores of one process, and of others that share it."""
    clock = DrivenClock()
    memory = MemoryRefreshTokenStore(clock)

    def make() -> RefreshTokenStore:
        return memory if request.param == "memory" else FileRefreshTokenStore(str(tmp_path / "refresh"), clock)

    return clock, make


async def test_no_other_lease_is_granted_until_the_first_one_ends(stores):
    clock, make = stores
    reported: list[str] = []

    async def take(name: str, end: asyncio.Event) -> None:
        async with make().exclusive(10.0):
            reported.append(f"{name} in")
            await end.wait()
            reported.append(f"{name} out")

    first, second = asyncio.Event(), asyncio.Event()
    second.set()
    tasks = [asyncio.create_task(take("first", first)), asyncio.create_task(take("second", second))]
    await clock.advance(1.0)
    assert reported == ["first in"]
    first.set()
    await clock.advance(1.0)
    assert reported == ["first in", "first out", "second in", "second out"]
    await asyncio.gather(*tasks)


async def test_a_lease_that_is_not_granted_in_time_is_a_failure(stores):
    clock, make = stores

    async def take() -> None:
        async with make().exclusive(2.0):
            raise AssertionError("it was somebody else's turn")

    async with make().exclusive(1.0):
        waiting = asyncio.create_task(failure_of(take()))
        await clock.advance(1.9)
        assert not waiting.done()
        await clock.advance(0.2)
        failure = await waiting
    assert failure.reason == BUSY
    async with make().exclusive(0.5):
        pass


async def test_file_is_replaced_atomically_and_private(tmp_path: Path):
    file = tmp_path / "refresh"
    file.write_text("by-hand\n")
    file.chmod(0o644)
    before = file.open()
    refresh_store = FileRefreshTokenStore(str(file), DrivenClock())
    assert await refresh_store.get() == "by-hand"
    async with refresh_store.exclusive(1.0):
        await refresh_store.put("new")
    assert before.read() == "by-hand\n", "who had it open still reads all of the old text"
    before.close()
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("new", 0o600)
    assert sorted(os.listdir(tmp_path)) == ["refresh", "refresh.lock"]
    assert stat.S_IMODE((tmp_path / "refresh.lock").stat().st_mode) == 0o600


async def test_a_file_is_on_the_disk_before_it_takes_the_place_of_the_old_one(tmp_path: Path, monkeypatch):
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        done.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "text")
        sync(descriptor)

    def renamed(old: str, new: str) -> None:
        done.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", renamed)
    await FileRefreshTokenStore(str(tmp_path / "refresh"), DrivenClock()).put("new")
    assert done == ["text", "rename", "directory"]


async def test_target_of_a_link_is_replaced_and_locked(tmp_path: Path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real" / "refresh")
    refresh_store = FileRefreshTokenStore(str(link), DrivenClock())
    async with refresh_store.exclusive(1.0):
        await refresh_store.put("new")
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path / "real")) == ["refresh", "refresh.lock"]


async def test_a_write_that_fails_leaves_the_old_text_and_nothing_else(tmp_path: Path, monkeypatch):
    file = tmp_path / "refresh"
    file.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    failure = await failure_of(FileRefreshTokenStore(str(file), DrivenClock()).put("new"))
    assert failure.reason == "refresh_token_file cannot be written: No space left on device"
    assert (file.read_text(), os.listdir(tmp_path)) == ("old", ["refresh"])


async def test_a_missing_directory_is_reported(tmp_path: Path):
    refresh_store = FileRefreshTokenStore(str(tmp_path / "nowhere" / "refresh"), DrivenClock())
    for work, what in ((refresh_store.put("x"), "written"), (refresh_store.exclusive(1.0).__aenter__(), "locked")):
        with pytest.raises(FetchFailure, match=f"refresh_token_file cannot be {what}: No such file or directory"):
            await work
    assert await refresh_store.get() is None


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("file/refresh", "refresh_token_file cannot be read: Not a directory"),
        ("folder", "refresh_token_file: the file .*/folder cannot be read: Is a directory"),
    ],
)
async def test_unreadable_file_is_not_a_missing_one(tmp_path: Path, place, reason):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FetchFailure, match=reason):
        await FileRefreshTokenStore(str(tmp_path / place), DrivenClock()).get()


async def test_a_lock_that_the_file_system_refuses_is_reported(tmp_path: Path, monkeypatch):
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(FetchFailure, match="refresh_token_file cannot be locked: No locks available"):
        await FileRefreshTokenStore(str(tmp_path / "refresh"), DrivenClock()).exclusive(1.0).__aenter__()
