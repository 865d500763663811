"""Breaker: whether a target fails so often that requests pass it over.

A target is ejected after consecutive failures. After the ejection one real request is its probe: a success ends the
ejection, a failure begins the next one.
"""

from __future__ import annotations

import msgspec


class BreakerSettings(msgspec.Struct, frozen=True):
    """`models.NAME.breaker`, with its defaults."""

    failures: int = 5
    ejection_s: float = 30.0


class Breaker:
    """The breaker of one target. Each `begin` has exactly one `end`.

    `settings` are those of the request's model: they may change by a reload, and another model may share the target.
    """

    __slots__ = ("_counts_since_s", "_failures", "cause", "ejected_s", "probe_since_s", "until_s")

    def __init__(self) -> None:
        self._failures = 0
        self._counts_since_s = 0.0
        self.ejected_s: float | None = None
        """When the last ejection began, None while the breaker is closed."""
        self.until_s = 0.0
        """Until when no request may go to the target: to the end of the ejection, then of the time for its probe.

        A probe may be a stream without end: after `ejection_s` another request may be the probe.
        """
        self.probe_since_s: float | None = None
        self.cause = ""
        """Why the last ejection began: `failures` in a row, or a `probe` that failed."""

    def begin(self, now_s: float, settings: BreakerSettings) -> bool:
        """Begin an attempt at the target. Return whether it is the probe, as `end` must know."""
        is_probe = self.ejected_s is not None and now_s >= self.until_s
        if is_probe:
            self.probe_since_s, self.until_s = now_s, now_s + settings.ejection_s
        return is_probe

    def end(
        self, now_s: float, settings: BreakerSettings, began_s: float, *, failed: bool | None, is_probe: bool
    ) -> bool:
        """End the attempt that began at `began_s`. Return whether the target was ejected, or its ejection ended.

        `failed` is None for an end that says nothing of the target: the client left, the request was wrong, or its
        token was refused. The result of an attempt that began before the last ejection is ignored.
        """
        if is_probe and began_s == self.probe_since_s:
            self.probe_since_s, self.until_s = None, now_s
        if failed is None or began_s < self._counts_since_s:
            return False
        if self.ejected_s is not None:
            if not failed:
                self.ejected_s = self.probe_since_s = None
                self.until_s = 0.0
            elif is_probe:
                self._eject(now_s, settings, "probe")
            return is_probe or not failed
        self._failures = self._failures + 1 if failed else 0
        if self._failures < settings.failures:
            return False
        self._eject(now_s, settings, "failures")
        return True

    def _eject(self, now_s: float, settings: BreakerSettings, cause: str) -> None:
        self.cause = cause
        self._failures, self.probe_since_s = 0, None
        self.ejected_s = self._counts_since_s = now_s
        self.until_s = now_s + settings.ejection_s
