"""A token that somebody else keeps fresh in a file."""

from __future__ import annotations

from gatepass.call import Secret
from gatepass.config.credential.file import FileCredential
from gatepass.runtime import Clock
from gatepass.tokens.held import Moments, is_document, read_document, read_key
from gatepass.tokens.life import Token
from gatepass.tokens.reading import Minted, Terms
from gatepass.tokens.watched import WatchedFile

_MARKS = 10_000


class FileSource:
    def __init__(self, name: str, settings: FileCredential, clock: Clock) -> None:
        self._name = name
        self._file = WatchedFile(settings.path, clock.wall)
        self._clock = clock
        self._terms = Terms(
            f"the file {settings.path}",
            settings.default_ttl_s,
            settings.max_ttl_s,
            settings.reply,
            plain_text=True,
            credential=name,
        )
        self._mark = Secret(lambda: str(self._file.changes() % _MARKS))

    def __repr__(self) -> str:
        return f"FileSource({self._name})"

    def secrets(self) -> tuple[Secret, ...]:
        """A count of the file's changes: it tells of a new token, stays while the file is away for a moment, and is too
        short to be masked. The tokens are learned as they are given out.
        """
        return (self._mark,)

    async def fetch(self) -> Token:
        """The token as it stands there now; raises FetchFailure where there is none, or it has expired."""
        born_s, written = self._clock.now(), self._file.read()
        minted = self._read(written.text, Moments(self._clock.wall(), written.written_s))
        return Token(Secret(minted.text), born_s, minted.life_s, minted.kind, minted.told_by, minted.no_expiry_at)

    def _read(self, text: str, at_s: Moments) -> Minted:
        if is_document(text) or self._terms.paths.token is not None:
            return read_document(text, self._terms, at_s, str)
        return read_key(text, self._terms.issuer, at_s)
