"""Breaker: whether a target fails so often that requests pass it over. It works like Envoy's outlier detection.

A target is ejected after consecutive failures, or if a share of its last requests failed. After the ejection one real
request is its probe: a success ends the ejection, a failure begins a longer one.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from gatepass.policy.recent_counts import RecentCounts


class BreakerSettings(msgspec.Struct, frozen=True):
    """`models.NAME.breaker`, with its defaults."""

    consecutive_failures: int = 5
    failure_percent: float = 50.0
    least_requests: int = 20
    window_s: float = 10.0
    ejection_s: float = 30.0
    max_ejection_s: float = 300.0


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    """The target is ejected."""
    HALF_OPEN = "half_open"
    """The ejection has ended, and a probe decides."""


class Verdict(StrEnum):
    """What the end of an attempt means for its target: a closed set."""

    SUCCESS = "success"
    FAILURE = "failure"
    NONE = "none"
    """Nothing: the client left, the request was wrong, or its token was refused."""


class Breaker:
    """The breaker of one target. Each `begin` has exactly one `end`."""

    __slots__ = (
        *("_closed_since_s", "_consecutive", "_counts_since_s", "_ejections", "_probe_since_s", "_recent"),
        *("ejected_s", "ejected_times", "settings", "until_s"),
    )

    def __init__(self, settings: BreakerSettings) -> None:
        self.settings = settings
        self._recent = RecentCounts(settings.window_s)
        self._consecutive = self._ejections = 0
        self._probe_since_s: float | None = None
        self._closed_since_s = self._counts_since_s = 0.0
        self.ejected_s: float | None = None
        """When the last ejection began, None while the breaker is closed."""
        self.until_s = 0.0
        """When it ends."""
        self.ejected_times = 0

    def use(self, settings: BreakerSettings) -> None:
        """Continue with the settings of a reload, or of another model with the same target."""
        self.settings, self._recent.window_s = settings, settings.window_s

    def state(self, now_s: float) -> BreakerState:
        if self.ejected_s is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now_s < self.until_s else BreakerState.HALF_OPEN

    def admits(self, now_s: float) -> bool:
        """Return whether a request may go to the target: always, or as its probe.

        A probe may be a stream without end: after `ejection_s` another request may be the probe.
        """
        if self.ejected_s is None:
            return True
        since_s = self._probe_since_s
        return now_s >= self.until_s and (since_s is None or now_s >= since_s + self.settings.ejection_s)

    def begin(self, now_s: float) -> bool:
        """Begin an attempt at the target. Return whether it is the probe, which `end` must know."""
        is_probe = self.ejected_s is not None and self.admits(now_s)
        if is_probe:
            self._probe_since_s = now_s
        return is_probe

    def end(self, now_s: float, verdict: Verdict, began_s: float, *, is_probe: bool) -> bool:
        """End the attempt that began at `began_s`. Return whether the target was ejected, or its ejection ended.

        The result of an attempt that began before the last ejection is ignored.
        """
        if is_probe and began_s == self._probe_since_s:
            self._probe_since_s = None
        if verdict is Verdict.NONE or began_s < self._counts_since_s:
            return False
        if self.ejected_s is not None:
            if verdict is Verdict.SUCCESS:
                self.ejected_s, self._closed_since_s = None, now_s
            elif is_probe:
                self._eject(now_s)
            return is_probe or verdict is Verdict.SUCCESS
        settings, failed = self.settings, verdict is Verdict.FAILURE
        self._consecutive = self._consecutive + 1 if failed else 0
        self._recent.add(now_s, is_marked=failed)
        share = self._recent.marked * 100 >= settings.failure_percent * self._recent.all
        if failed and (
            self._consecutive >= settings.consecutive_failures
            or (self._recent.all >= settings.least_requests and share)
        ):
            # each time that it was healthy for as long as an ejection takes makes the next ejection shorter again
            healthy = int((now_s - self._closed_since_s) / settings.ejection_s)
            self._ejections = max(0, self._ejections - healthy)
            self._eject(now_s)
            return True
        return False

    def _eject(self, now_s: float) -> None:
        settings = self.settings
        self._ejections = min(self._ejections + 1, int(settings.max_ejection_s / settings.ejection_s) + 1)
        self._consecutive = 0
        self.ejected_times += 1
        self._recent.clear()
        self.ejected_s = self._counts_since_s = now_s
        self.until_s = now_s + min(settings.ejection_s * self._ejections, settings.max_ejection_s)
