"""Read a token that another program keeps fresh in a file, again whenever the file changes."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256

from gatepass.clock import Clock
from gatepass.config.advice import Advice
from gatepass.config.credential.kinds import FileCredential
from gatepass.config.references import open_regular
from gatepass.tokens import token_reply
from gatepass.tokens.failure import FailureCase, FetchFailure
from gatepass.tokens.issuer_error import REPLY_BYTES
from gatepass.tokens.lifetime import Token, safe_claims
from gatepass.types import Secret


@dataclass(frozen=True, slots=True)
class FileContent:
    """The text of a file, and when it was written (its mtime, epoch seconds)."""

    text: str = field(repr=False)
    written_s: float


class WatchedFile:
    """A file that may change at any time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._digest = ""

    def read(self) -> FileContent:
        """Return the current content; raise FetchFailure, which names the file, if it cannot be read."""
        try:
            with open_regular(self._path) as file:
                status, data = os.fstat(file.fileno()), file.read(REPLY_BYTES + 1)  # one more, to notice a larger file
        except OSError as error:
            why = f"the file {self._path} cannot be read: {error.strerror}"
            raise FetchFailure(why, case=FailureCase.UNREADABLE) from None
        if len(data) > REPLY_BYTES:
            raise FetchFailure(f"the file {self._path} is larger than {REPLY_BYTES} bytes, so it is not a token")
        self._digest = sha256(data.strip()).hexdigest()
        return FileContent(data.decode("utf-8-sig", "replace"), status.st_mtime)

    def mark(self) -> Secret:
        """Return a digest of the last readable text, as a Secret. A change justifies a new attempt."""
        return Secret(self._read_digest)

    def _read_digest(self) -> str:
        with suppress(FetchFailure):
            self.read()
        return self._digest


class PresentedFile:
    """A token that another program keeps in a file, and that gatepass presents to an issuer.

    `name` is the setting of `credential` that names the file.
    """

    def __init__(self, credential: str, name: str, path: str, clock: Clock) -> None:
        self._setting = f"credentials.{credential}.{name}"
        self._path = path
        self._clock = clock
        self._file = WatchedFile(path)
        self.mark = self._file.mark()

    def read(self) -> str:
        """Return the current token; raise FetchFailure, which is never definite because a repair needs no restart."""
        text, wall_s = "", self._clock.wall()
        try:
            written = self._file.read()
            text = written.text.strip()
            at_s = token_reply.ReadTimes(self._clock.now(), wall_s, written.written_s)
            return token_reply.parse_token_text(text, f"the file {self._path}", at_s).text
        except FetchFailure as failure:
            end = safe_claims(text, wall_s).get("exp")
            times, case = ("", "presented_file") if end is None else (f": exp {end}", "presented_token")
            advice = Advice(case, {"setting": self._setting})
            raise FetchFailure(f"{failure.why}{times}", advice=advice, case=failure.case) from None

    def audience(self) -> str:
        """Return which audience the token has, to follow a refusal; empty if it is not a JWT with one."""
        with suppress(FetchFailure):
            if aud := safe_claims(self._file.read().text.strip(), self._clock.wall()).get("aud"):
                return f"; the token in {self._path} has the audience {aud}"
        return ""


class FileSource:
    def __init__(self, name: str, settings: FileCredential, clock: Clock) -> None:
        self._file = WatchedFile(settings.path)
        self._clock = clock
        self._reply_format = token_reply.TokenReplyFormat(
            f"the file {settings.path}",
            settings.default_ttl_s,
            settings.reply,
            plain_text=True,
            credential=name,
        )

    def secrets(self) -> tuple[Secret, ...]:
        """Return a digest of the file, so that a new token is noticed. Tokens are masked when returned."""
        return (self._file.mark(),)

    async def fetch(self) -> Token:
        """Return the token in the file; raise FetchFailure if there is none, or if it has expired."""
        requested_s, written = self._clock.now(), self._file.read()
        at_s = token_reply.ReadTimes(requested_s, self._clock.wall(), written.written_s)
        if token_reply.looks_like_json(written.text) or self._reply_format.paths.token is not None:
            return token_reply.parse_token_document(written.text, self._reply_format, at_s, str)
        return token_reply.parse_token_text(written.text, self._reply_format.issuer, at_s)
