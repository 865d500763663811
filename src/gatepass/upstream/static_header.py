"""A header that every request to an upstream holds; where its value stands in a file, the file may be replaced."""

from __future__ import annotations

import logging

from gatepass.call import Secret
from gatepass.config.network import unfit
from gatepass.config.references import UnresolvedReference
from gatepass.observe.redaction import Redactor

MASKED_CHARS = 16
"""A static header this long is taken for a secret in texts; shorter ones are names, such as `default`."""
logger = logging.getLogger("gatepass.upstream")


class StaticHeader:
    """`field` is the header as it was last good: while a file is replaced it is away, empty or half written for a
    moment, and no request fails of that. Each change for the worse is one line of the log, without the value.

    Raises UnresolvedReference, which names `setting`, where there is no good value to begin with.
    """

    __slots__ = ("_redactor", "_setting", "_trouble", "_value", "field")

    def __init__(self, name: bytes, value: Secret, setting: str, redactor: Redactor) -> None:
        self._value = value
        self._setting = setting
        self._redactor = redactor
        self._trouble: str | None = None
        try:
            self.field = (name, self._read())
        except ValueError as error:
            raise UnresolvedReference(f"{setting}: {error}") from None

    def __repr__(self) -> str:
        return f"StaticHeader({self._setting})"

    @property
    def changes(self) -> bool:
        return self._value.changes

    def look_again(self) -> None:
        """Take the value as it stands now, where it is good."""
        try:
            self.field = (self.field[0], self._read())
        except ValueError as error:
            self._tell(str(error))
        else:
            self._tell(None)

    def _read(self) -> bytes:
        text = self._value.reveal()
        if fault := unfit(text) if text else "is empty":
            raise ValueError(fault)
        if len(text) >= MASKED_CHARS:
            self._redactor.learn(text, self._setting)
        return text.encode()

    def _tell(self, trouble: str | None) -> None:
        if trouble == self._trouble:
            return
        self._trouble = trouble
        fields: dict[str, object] = {"setting": self._setting}
        if trouble is None:
            logger.info("header_read_again", extra={"fields": fields})
        else:
            logger.warning("header_unreadable", extra={"fields": fields | {"reason": trouble}})
