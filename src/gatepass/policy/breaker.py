"""Breaker: whether a target fails so often that requests pass it over. It works like Envoy's outlier detection.

A target is ejected after consecutive failures, or if a share of its last requests failed. After the ejection one real
request is its probe, or one for the list of models: a success ends the ejection, a failure begins a longer one.
"""

from __future__ import annotations

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
    probe: str = "request"


class Breaker:
    """The breaker of one target. Each `begin` has exactly one `end`.

    `settings` are those of the request's model: they may change by a reload, and another model may share the target.
    """

    __slots__ = (
        *("_closed_since_s", "_consecutive", "_counts_since_s", "_ejections", "_recent"),
        *("cause", "ejected_s", "ejected_times", "probe_since_s", "until_s"),
    )

    def __init__(self) -> None:
        self._recent = RecentCounts()
        self._consecutive = self._ejections = 0
        self._closed_since_s = self._counts_since_s = 0.0
        self.ejected_s: float | None = None
        """When the last ejection began, None while the breaker is closed."""
        self.until_s = 0.0
        """Until when no request may go to the target: to the end of the ejection, then of the time for its probe.

        A probe may be a stream without end: after `ejection_s` another request may be the probe.
        """
        self.probe_since_s: float | None = None
        self.ejected_times = 0
        self.cause = ""
        """Why the last ejection began: the setting whose limit was reached, or `probe` for one that failed."""

    def begin(self, now_s: float, settings: BreakerSettings, probe: str = "request") -> bool:
        """Begin an attempt at the target, or its `models` probe. Return whether it is the probe, as `end` must know."""
        is_probe = self.ejected_s is not None and now_s >= self.until_s and probe == settings.probe
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
                self.until_s, self._closed_since_s = 0.0, now_s
            elif is_probe:
                self._eject(now_s, settings)
            return is_probe or not failed
        self._recent.add(now_s, settings.window_s, is_marked=failed)
        if not failed:
            self._consecutive = 0
            return False
        self._consecutive += 1
        ends, failures = self._recent.counts(now_s, settings.window_s)
        is_share = ends >= settings.least_requests and failures * 100 >= settings.failure_percent * ends
        if self._consecutive < settings.consecutive_failures and not is_share:
            return False
        # each time that it was healthy for as long as an ejection takes makes the next ejection shorter again
        healthy = int((now_s - self._closed_since_s) / settings.ejection_s)
        self._ejections = max(0, self._ejections - healthy)
        self._eject(now_s, settings)
        return True

    def _eject(self, now_s: float, settings: BreakerSettings) -> None:
        in_a_row = self._consecutive >= settings.consecutive_failures
        self.cause = "consecutive_failures" if in_a_row else "failure_percent" if self.ejected_s is None else "probe"
        self._ejections = min(self._ejections + 1, int(settings.max_ejection_s / settings.ejection_s) + 1)
        self._consecutive, self.probe_since_s = 0, None
        self.ejected_times += 1
        self._recent.clear()
        self.ejected_s = self._counts_since_s = now_s
        self.until_s = now_s + min(settings.ejection_s * self._ejections, settings.max_ejection_s)
