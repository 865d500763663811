"""The breaker against a model of its rules, with the time driven by hand."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gatepass.policy.breaker import Breaker, BreakerSettings

SUCCESS, FAILURE, NONE = False, True, None
DEFAULTS = BreakerSettings()
VARIANTS = (
    BreakerSettings(failures=3),
    BreakerSettings(failures=2, ejection_s=40.0),
    BreakerSettings(failures=1, ejection_s=30.0),
)


@dataclass(eq=False)
class Begun:
    at_s: float
    is_probe: bool


class Machine(RuleBasedStateMachine):
    """Attempts that overlap. Each end is at its own second."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s, self.settings = 1_000.0, VARIANTS[0]
        self.breaker = Breaker()
        self.begun: list[Begun] = []
        # the model
        self.is_closed, self.until_s, self.ejected_s = True, 0.0, 0.0
        self.probe_s: float | None = None
        self.free_s = 0.0
        self.in_a_row = 0

    # --- the model

    def admits(self) -> bool:
        is_free = self.probe_s is None or self.now_s >= self.free_s
        return self.is_closed or (self.now_s >= self.until_s and is_free)

    def eject(self) -> bool:
        self.is_closed, self.ejected_s, self.in_a_row = False, self.now_s, 0
        self.probe_s = None
        self.until_s = self.now_s + self.settings.ejection_s
        return True

    def expect(self, one: Begun, verdict: bool | None) -> bool:
        """Change the model. Return whether the target was ejected or recovered."""
        if one.is_probe and one.at_s == self.probe_s:
            self.probe_s = None
        if verdict is NONE or one.at_s < self.ejected_s:
            return False
        if not self.is_closed:
            if verdict is SUCCESS:
                self.is_closed, self.probe_s = True, None
                return True
            return one.is_probe and self.eject()
        self.in_a_row = self.in_a_row + 1 if verdict is FAILURE else 0
        return self.in_a_row >= self.settings.failures and self.eject()

    # --- what happens

    @rule(times=st.integers(1, 4))
    def begin(self, times: int) -> None:
        """Requests begin, also those that all targets' ejection forces upon this one."""
        for _ in range(times):
            expected = not self.is_closed and self.admits()
            one = Begun(self.now_s, self.breaker.begin(self.now_s, self.settings))
            assert one.is_probe == expected
            self.begun.append(one)
            if one.is_probe:
                self.probe_s, self.free_s = self.now_s, self.now_s + self.settings.ejection_s

    @precondition(lambda self: self.begun)
    @rule(verdict=st.sampled_from((FAILURE, FAILURE, SUCCESS, NONE)), data=st.data())
    def end(self, verdict: bool | None, data: st.DataObject) -> None:
        self.end_at(data.draw(st.integers(0, len(self.begun) - 1)), verdict)

    def end_at(self, place: int, verdict: bool | None) -> None:
        one = self.begun.pop(place)
        self.now_s += 1
        expected = self.expect(one, verdict)
        assert self.breaker.end(self.now_s, self.settings, one.at_s, failed=verdict, is_probe=one.is_probe) == expected

    @precondition(lambda self: self.begun)
    @rule(verdict=st.sampled_from((FAILURE, FAILURE, SUCCESS)))
    def end_all(self, verdict: bool | None) -> None:
        while self.begun:
            self.end_at(-1, verdict)

    @rule(by_s=st.sampled_from((1, 4, 9, 10, 11, 29, 30, 31, 60, 90, 300)))
    def wait(self, by_s: float) -> None:
        self.now_s += by_s

    @precondition(lambda self: not self.is_closed)
    @rule(by_s=st.sampled_from((-1, 0)))
    def wait_for_the_end_of_the_ejection(self, by_s: float) -> None:
        self.now_s = max(self.now_s, self.until_s + by_s)

    @rule(variant=st.sampled_from(VARIANTS))
    def reload(self, variant: BreakerSettings) -> None:
        self.settings = variant

    # --- what always holds

    @invariant()
    def is_like_the_model(self) -> None:
        breaker = self.breaker
        assert (breaker.until_s <= self.now_s) == self.admits()
        assert (breaker.ejected_s is None) == self.is_closed
        assert self.is_closed or breaker.ejected_s == self.ejected_s
        assert self.is_closed or (breaker.probe_since_s is None) == (self.probe_s is None)

    @invariant()
    def has_one_probe_at_most(self) -> None:
        """In the time of an ejection, of which 30 s are the shortest."""
        assert sum(one.is_probe and self.now_s - one.at_s < 30 for one in self.begun) <= 1

    def teardown(self) -> None:
        """Whatever happened, a target is asked again when its requests have ended and its ejection is over."""
        for one in self.begun:
            self.breaker.end(self.now_s, self.settings, one.at_s, failed=NONE, is_probe=one.is_probe)
        assert self.breaker.until_s <= max(self.now_s, self.until_s)


TestBreaker = Machine.TestCase
TestBreaker.settings = settings(max_examples=max(100, settings().max_examples))


def test_each_ejection_is_as_long_as_the_first_and_names_its_cause():
    breaker, now_s, seen = Breaker(), 1_000.0, []
    for _ in range(5):
        breaker.end(now_s, DEFAULTS, now_s, failed=FAILURE, is_probe=breaker.begin(now_s, DEFAULTS))
    for _ in range(3):
        seen.append((breaker.cause, breaker.until_s - now_s))
        now_s = breaker.until_s
        breaker.end(now_s, DEFAULTS, now_s, failed=FAILURE, is_probe=breaker.begin(now_s, DEFAULTS))
    assert seen == [("failures", 30.0), ("probe", 30.0), ("probe", 30.0)]
