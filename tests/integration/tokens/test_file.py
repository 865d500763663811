"""`type: file` with real files, on the driven clock: gatepass notices each change."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from gatepass.config.credential.kinds import FileCredential
from gatepass.observability.redaction import Redactor
from gatepass.tokens import FetchFailure, Token, TokenHolder, WaitBudget
from gatepass.tokens.holder import SECRET_POLL_S
from gatepass.tokens.lifetime import LifetimeSource, TokenKind
from gatepass.tokens.sources.file import FileSource, WatchedFile
from tests.unit.clock import DrivenClock
from tests.unit.tokens.scripted import signed


class Writer:
    """A program that keeps a token in a file, on the same clock as gatepass."""

    def __init__(self, path: Path, clock: DrivenClock) -> None:
        self.path, self.clock = path, clock

    def write(self, text: str, age_s: float = 0.0) -> str:
        """In place of the old file, as a careful writer does it."""
        new = self.path.with_name("new")
        new.write_text(text)
        self.date(new, age_s)
        new.replace(self.path)
        return text

    def jwt(self, life_s: float, age_s: float = 0.0) -> str:
        made_s = int(self.clock.wall() - age_s)
        return self.write(signed(iat=made_s, exp=made_s + int(life_s), jti=os.urandom(4).hex()), age_s)

    def date(self, path: Path, age_s: float = 0.0) -> None:
        written_s = self.clock.wall() - age_s
        os.utime(path, (written_s, written_s))


@pytest.fixture
def clock() -> DrivenClock:
    return DrivenClock()


@pytest.fixture
def writer(tmp_path: Path, clock: DrivenClock) -> Writer:
    return Writer(tmp_path / "token", clock)


def source(writer: Writer, **more: Any) -> FileSource:
    settings = FileCredential.model_validate({"type": "file", "path": str(writer.path), **more})
    return FileSource("pod", settings, writer.clock)


def holder(writer: Writer, **more: Any) -> TokenHolder:
    it = TokenHolder(
        "pod", source(writer, **more), writer.clock, Redactor(), WaitBudget(10.0, random_fraction=lambda: 0.0)
    )
    it.start()
    return it


async def failure(it: FileSource) -> FetchFailure:
    with pytest.raises(FetchFailure) as caught:
        await it.fetch()
    return caught.value


def reported(token: Token) -> tuple[str, float | None, TokenKind, LifetimeSource]:
    return token.text, token.lifetime_s, token.kind, token.lifetime_source


async def test_plain_key_does_not_expire_and_json_may_have_an_expiry(writer):
    writer.write("1|abc\n")
    assert reported(await source(writer).fetch()) == ("1|abc", None, TokenKind.KEY, LifetimeSource.NONE)
    writer.write(json.dumps({"a": {"token": "abc"}, "left": 300}), age_s=100)
    it = source(writer, reply={"token": "a.token", "expiry": "left"})
    assert reported(await it.fetch()) == ("abc", 200.0, TokenKind.OPAQUE, LifetimeSource.REPLY)


async def test_a_fault_of_the_file_names_the_file(writer, tmp_path):
    it, name = source(writer), f"the file {writer.path}"
    missing = await failure(it)
    assert (missing.reason, missing.is_refused) == (f"{name} cannot be read: No such file or directory", False)
    writer.write("")
    assert (await failure(it)).reason == f"{name} is empty"
    writer.write("x" * 70_000)
    assert (await failure(it)).reason == f"{name} is larger than 65536 bytes, so it is not a token"
    writer.path.unlink()
    writer.path.mkdir()
    assert (await failure(it)).reason == f"{name} cannot be read: Is a directory"
    writer.path.rmdir()
    os.mkfifo(writer.path)
    assert (await failure(it)).reason == f"{name} cannot be read: it is not a regular file"
    writer.path.unlink()
    text = writer.jwt(600)
    assert (await it.fetch()).text == text


def test_each_change_is_seen_whatever_the_file_system_shows(writer):
    """Same inode, size and mtime: the two look the same."""
    file = WatchedFile(str(writer.path))
    mark, seen = file.mark(), []
    for text in ("abc", "def"):
        writer.path.write_text(text)
        writer.date(writer.path)
        assert file.read().text == text
        seen.append(mark.reveal())
    assert seen[0] != seen[1]


def test_a_touched_or_missing_file_has_not_changed(writer):
    mark = WatchedFile(str(writer.path)).mark()
    writer.write("abc", age_s=60)
    before = mark.reveal()
    writer.write("abc\n", age_s=30)
    assert mark.reveal() == before
    writer.path.unlink()
    assert mark.reveal() == before


def test_a_projected_token_is_followed_when_its_link_is_turned(tmp_path):
    """Kubernetes: token -> ..data/token, ..data -> ..2027_01_15; a new directory, then ..data is renamed over."""

    def publish(name: str, text: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(text)
        (tmp_path / "..data_tmp").symlink_to(name)
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")

    (tmp_path / "token").symlink_to("..data/token")
    publish("..2027_01", "first")
    file = WatchedFile(str(tmp_path / "token"))
    assert file.read().text == "first"
    publish("..2027_02", "other")
    assert file.read().text == "other"


async def test_a_token_that_is_renewed_in_time_is_never_missed(writer, clock):
    """A kubelet renews at 80 % of the life, and looks once a minute: 10 minutes, for 100 minutes."""
    text = writer.jwt(600)
    it = holder(writer)
    await clock.advance(0.1)
    for second in range(1, 6000):
        if second % 540 == 0:
            text = writer.jwt(600)
        await clock.advance(1.0)
        assert it.usable, f"second {second}"
    assert (await it.token()).text == text
    assert it.status().failures == 0
    await it.aclose()


async def test_an_expired_token_is_reported_once_and_its_successor_noticed_at_once(writer, clock):
    writer.jwt(600, age_s=700)
    it = holder(writer)
    await clock.advance(20.0)
    status = it.status()
    assert not it.usable
    assert (status.failures, status.last_error) == (
        1,
        f"the file {writer.path} contains a token that expired 100 s ago",
    )
    text = writer.jwt(600)
    await clock.advance(SECRET_POLL_S + 0.1)
    assert (await it.token()).text == text
    await it.aclose()
