"""Which of many equal failures are worth a line in the log. Values in, values out, but for what it remembers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

TELL_AGAIN_S = 60.0
"""Between two lines that say the same: an outage of a night is some hundred lines and not ten thousand."""
REMEMBERED = 16
"""Different reasons in one outage; an issuer that finds new words for each failure is told of once a minute."""
_VARYING = re.compile(r"[0-9a-f]{8,}|[0-9]+", re.IGNORECASE)
"""Moments, ports and request ids: what differs in two reasons that are the same."""


@dataclass(slots=True)
class Told:
    at_s: float
    silent: int = 0


@dataclass(slots=True)
class Repetitions:
    """The failures of one credential since it last went well."""

    _told: dict[str, Told] = field(default_factory=dict)

    def times(self, reason: str, now: float) -> int | None:
        """For how many failures a line about `reason` stands that is written now; None: write none."""
        key = _VARYING.sub("#", reason)
        if key not in self._told and len(self._told) >= REMEMBERED:
            key = ""
        told = self._told.get(key)
        if told is not None and now < told.at_s + TELL_AGAIN_S:
            told.silent += 1
            return None
        self._told[key] = Told(now)
        return 1 if told is None else told.silent + 1

    def forget(self) -> None:
        """All is well: the next failure is news."""
        self._told.clear()
