"""The order of targets by weight, load and caller within the bounds of chance, and the choice among them."""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.policy import balancing
from gatepass.policy.balancing import MOST_LOAD, MOST_REFUSED, NoTarget, Standing, TargetHealth, next_target, ranked
from gatepass.policy.breaker import BreakerSettings

SEED, SIGMAS = 1795182408, 5
NOW_S = 1_000.0
KEYS = [b"caller-%d" % at for at in range(4_000)]


@pytest.fixture(autouse=True)
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancing, "random", random.Random(SEED))


def are_shares(counts: Sequence[int], shares: Sequence[float]) -> bool:
    """Return whether each of `counts` is within the bounds of the binomial distribution of its share."""
    total, whole = sum(counts), sum(shares)
    chances = [share / whole for share in shares]
    return all(
        abs(count - total * chance) <= SIGMAS * math.sqrt(total * chance * (1 - chance))
        for count, chance in zip(counts, chances, strict=True)
    )


def firsts(orders: Sequence[Sequence[int]], targets: int) -> list[int]:
    counts = Counter(order[0] for order in orders)
    return [counts[at] for at in range(targets)]


# --- weights


@pytest.mark.parametrize("scale", [1, 1_000_000 / 5, 0.001, 1e-9])
def test_each_target_is_first_as_often_as_its_weight_says(scale):
    weights = [2 * scale, 5 * scale, 1 * scale]
    orders = [ranked("weighted", "abc", weights, [9, 0, 4], None) for _ in range(10_000)]
    assert are_shares(firsts(orders, 3), weights)
    # after a failure the others share its requests by their weights
    seconds = Counter(order[1] for order in orders if order[0] == 1)
    assert are_shares([seconds[0], seconds[2]], [2, 1])


@pytest.mark.parametrize(
    "rank",
    [
        lambda weights, loads: ranked("weighted", "abcd", weights, loads, None),
        lambda weights, loads: ranked("least_in_flight", "abcd", weights, loads, None),
        lambda weights, loads: ranked("order", "abcd", weights, loads, b"key"),
    ],
    ids=["weighted", "least_in_flight", "caller"],
)
def test_a_target_of_weight_0_is_a_spare(rank: Callable[[list[float], list[int]], Sequence[int]]):
    for loads in ([0, 0, 0, 0], [50, 0, 70, 0], [9, 3, 9, 3]):
        for _ in range(200):
            order = rank([2.0, 0.0, 1.0, 0.0], loads)
            assert (set(order[:2]), set(order[2:])) == ({0, 2}, {1, 3})
    assert list(ranked("order", "abcd", [0.0, 1.0, 1.0, 0.0], [0, 9, 0, 0], None)) == [0, 1, 2, 3]


# --- load


def test_targets_without_load_are_chosen_by_their_weights():
    weights = [3.0, 1.0, 2.0]
    orders = [ranked("least_in_flight", "abc", weights, [0, 0, 0], None) for _ in range(10_000)]
    assert are_shares(firsts(orders, 3), weights)


@given(loads=st.lists(st.integers(0, 20), min_size=2, max_size=6), data=st.data())
def test_the_target_with_the_fewest_requests_for_its_weight_is_first(loads, data):
    weights = data.draw(st.lists(st.sampled_from((0.5, 1.0, 3.0)), min_size=len(loads), max_size=len(loads)))
    order = ranked("least_in_flight", "abcdef"[: len(loads)], weights, loads, None)
    ratios = [loads[at] / weights[at] for at in order]
    assert ratios == sorted(ratios)
    assert sorted(order) == list(range(len(loads)))


# --- callers


def of_key(key: bytes, names: Sequence[str], weights: Sequence[float], loads: Sequence[int] | None = None) -> str:
    return names[ranked("weighted", names, weights, loads or [0] * len(names), key)[0]]


def test_keys_are_shared_by_weight():
    names, weights = ["east/m", "west/m", "north/m"], [3.0, 1.0, 2.0]
    counts = Counter(of_key(key, names, weights) for key in KEYS)
    assert are_shares([counts[name] for name in names], weights)


@given(key=st.binary(max_size=40), places=st.permutations(range(5)))
def test_a_key_has_the_same_order_of_targets_in_whatever_order_they_are_configured(key, places):
    names, weights = list("abcde"), [1.0, 2.0, 3.0, 0.5, 1.0]
    order = [names[at] for at in ranked("order", names, weights, [0] * 5, key)]
    moved = ([names[at] for at in places], [weights[at] for at in places])
    assert [moved[0][at] for at in ranked("order", *moved, [0] * 5, key)] == order


def test_a_new_target_takes_its_share_of_the_keys_and_moves_no_other():
    names = list("abcde")
    moves = [(of_key(key, names[:4], [1.0] * 4), of_key(key, names, [1.0] * 5)) for key in KEYS]
    moved = [after for before, after in moves if before != after]
    assert set(moved) == {"e"}
    assert are_shares([len(moved), len(KEYS) - len(moved)], [1, 4])


@pytest.mark.parametrize("weights", [[1.0] * 4, [4.0, 2.0, 1.0, 1.0], [1.0, 1.0, 0.0, 2.0]])
def test_one_key_loads_no_target_above_its_bound(weights):
    loads = [0] * 4
    for total in range(1, 400):
        at = ranked("order", "abcd", weights, loads, b"one caller")[0]
        loads[at] += 1
        assert weights[at] > 0
        assert loads[at] <= math.ceil(total * MOST_LOAD * weights[at] / sum(weights))
    preferred = ranked("order", "abcd", weights, [0] * 4, b"one caller")[0]
    assert loads[preferred] >= 399 * MOST_LOAD * weights[preferred] / sum(weights) - 1


# --- the choice


EJECTS = BreakerSettings(failures=1)
KINDS = ("good", "full", "ejected", "full and ejected", "waits", "probed")


def a_health(kind: str) -> TargetHealth:
    health = TargetHealth()
    if kind == "waits":
        health.limit(NOW_S, 0.1)
    breaker = health.breaker
    if "ejected" in kind:
        breaker.end(NOW_S - 29.9, EJECTS, NOW_S - 29.9, failed=True, is_probe=False)
    if kind == "probed":
        breaker.end(NOW_S - 30, EJECTS, NOW_S - 30, failed=True, is_probe=False)
        assert breaker.begin(NOW_S, EJECTS)
    return health


@given(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=5), data=st.data())
def test_the_choice_among_targets(kinds, data):
    order = data.draw(st.permutations(range(len(kinds))))
    tried = data.draw(st.sets(st.integers(0, len(kinds) - 1)))
    waits, ejects = data.draw(st.booleans()), data.draw(st.sampled_from((None, EJECTS)))
    full = {at for at, kind in enumerate(kinds) if "full" in kind}
    standings = [
        a_health(kind).standing(NOW_S, ejects, has_cooldown=waits, is_full=at in full) for at, kind in enumerate(kinds)
    ]
    at = next_target(order, tried, standings, ())

    usable = [kind for kind in kinds if not (waits and kind == "waits")]
    ejected = {"ejected", "full and ejected", "probed"} if ejects else set[str]()
    all_are_ejected = ejected.issuperset(usable)
    allowed = [
        one
        for one in order
        if one not in tried and kinds[one] in usable and (all_are_ejected or kinds[one] not in ejected)
    ]
    if isinstance(at, NoTarget):
        assert not allowed
        assert at is (NoTarget.TRIED if usable else NoTarget.WAITS)
        return
    assert at in allowed
    assert at not in full or full.issuperset(allowed)
    assert at in full or full.issuperset(allowed[: allowed.index(at)])


@pytest.mark.parametrize(
    ("standings", "tried", "used_up", "found"),
    [
        ([Standing.FREE, Standing.FREE], (), (0,), 1),
        ([Standing.FREE, Standing.FREE], (1,), (0,), NoTarget.USED_UP),
        ([Standing.FREE, Standing.WAITS], (), (0,), NoTarget.USED_UP),
        ([Standing.FREE, Standing.EJECTED], (), (0,), 1),
        ([Standing.FREE, Standing.EJECTED], (0,), (), NoTarget.TRIED),
    ],
)
def test_a_target_whose_upstream_used_up_its_limits_is_left_out(standings, tried, used_up, found):
    assert next_target(range(2), tried, standings, used_up) == found


def test_a_wait_is_for_those_that_were_refused_once_a_probe_of_another_caller_succeeded():
    health = TargetHealth()

    def standings(at_s: float) -> list[Standing]:
        return [health.standing(at_s, EJECTS, name, has_cooldown=True) for name in ("ana", "ben")]

    health.limit(NOW_S, 30.0, "ana")
    assert standings(NOW_S) == [Standing.WAITS, Standing.PROBED]
    assert health.standing(NOW_S, None, "ben", has_cooldown=True, is_full=True) is Standing.PROBED_AND_FULL
    assert not health.begin_probe(NOW_S, "ana")  # a repeat of the request that was refused
    assert health.begin_probe(NOW_S, "ben")
    assert (standings(NOW_S + 9.9), health.asked_s(NOW_S + 5, "ben")) == ([Standing.WAITS] * 2, 1.0)
    assert standings(NOW_S + 10) == [Standing.WAITS, Standing.PROBED]  # a probe may be a request without end
    assert not health.end_probe(NOW_S + 11, NOW_S, succeeded=False)
    assert (standings(NOW_S + 11.9), standings(NOW_S + 12)) == (
        [Standing.WAITS] * 2,
        [Standing.WAITS, Standing.PROBED],
    )
    assert health.begin_probe(NOW_S + 12, "ben")
    assert health.end_probe(NOW_S + 13, NOW_S + 12, succeeded=True)
    assert (standings(NOW_S + 13), health.begin_probe(NOW_S + 13, "ben")) == ([Standing.WAITS, Standing.FREE], False)
    assert health.state(NOW_S + 13, EJECTS, has_cooldown=True) == ("available", 0.0)
    health.limit(NOW_S + 14, 30.0, "ana")  # an earlier request says nothing of others
    assert standings(NOW_S + 14) == [Standing.WAITS, Standing.FREE]
    health.limit(NOW_S + 15, 30.0, "cem")  # another caller's does
    assert standings(NOW_S + 16) == [Standing.WAITS, Standing.PROBED]
    assert not health.end_probe(NOW_S + 17, NOW_S + 14, succeeded=True)  # it began before that
    assert standings(NOW_S + 17) == [Standing.WAITS, Standing.PROBED]
    assert standings(NOW_S + 45) == [Standing.FREE] * 2


def test_the_callers_that_a_target_refused_are_bounded():
    health = TargetHealth()
    for number in range(3 * MOST_REFUSED):
        health.limit(NOW_S + number, 30.0, f"jwt:{number}")
        assert health.standing(NOW_S + number, None, f"jwt:{number}", has_cooldown=True) is Standing.WAITS
        assert len(health._refused) <= MOST_REFUSED + 1
    assert not health.begin_probe(NOW_S + number, f"jwt:{number}")
    assert health.begin_probe(NOW_S + number, "jwt:0")


def test_a_target_that_asked_to_wait_is_asked_again_at_the_end_of_its_wait():
    health = TargetHealth()
    health.limit(NOW_S - 5.0, 5.0)
    standings = [health.standing(at_s, EJECTS, has_cooldown=True) for at_s in (NOW_S - 0.001, NOW_S)]
    assert standings == [Standing.WAITS, Standing.FREE]
    word, left_s = a_health("ejected").state(NOW_S - 1, EJECTS, has_cooldown=True)
    assert (word, round(left_s, 3)) == ("ejected", 1.1)
    health = TargetHealth()
    assert [health.limit(NOW_S, 100.0), health.limit(NOW_S, 70.0), health.asked_s(NOW_S)] == [True, False, 100.0]
    health.limited_until_s = NOW_S
    states = [health.state(NOW_S + by_s, EJECTS, has_cooldown=True) for by_s in (-2, 2)]
    assert states == [("waits", 2.0), ("available", 0.0)]
