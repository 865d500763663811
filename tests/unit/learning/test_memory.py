"""The memory of learned rules: how long, and how many."""

from msgspec import structs

from gatepass.learning.learned_rule import HOUR_S, Key, LearnedRule, RuleScope
from gatepass.learning.memory import Memory
from tests.unit.learning.upstreams import O3

SYNTH = LearnedRule("stream", "synth")
BRIEF = LearnedRule("drop", "seed", ttl_s=900)
DROP = LearnedRule("drop", "temperature")
NOW_S, WALL_S = 1_000.0, 1_800_000_000.0


def key(learned_rule: LearnedRule = SYNTH, subject: RuleScope = O3) -> Key:
    return (subject, learned_rule.key)


def known(memory: Memory, subject: RuleScope = O3) -> list[LearnedRule]:
    return [learned_rule for _, learned_rule in memory.of(subject)]


def test_a_rule_is_news_once():
    memory = Memory()
    assert memory.commit(key(), SYNTH, "", NOW_S)
    assert not memory.commit(key(), SYNTH, "", NOW_S + 5)
    assert memory.commit(key(), LearnedRule("stream", "aggregate"), "", NOW_S)
    assert known(memory) == [LearnedRule("stream", "aggregate")]


def test_reversing_rule_replaces_the_earlier_one():
    memory = Memory()
    there, back = LearnedRule("rename", "a", "b"), LearnedRule("rename", "b", "a")
    memory.commit(key(there), there, "", NOW_S)
    memory.commit(key(back), back, "", NOW_S)
    assert known(memory) == [back]


def test_a_rule_that_has_expired_is_forgotten():
    memory = Memory()
    memory.commit(key(), SYNTH, "", NOW_S)
    memory.commit(key(BRIEF), BRIEF, "", NOW_S)
    memory.commit(key(DROP, structs.replace(O3, model="o3")), DROP, "", NOW_S)
    memory.expire(O3, NOW_S + BRIEF.ttl_s - 1)
    assert len(known(memory)) == 2
    memory.expire(O3, NOW_S + BRIEF.ttl_s)
    assert known(memory) == [SYNTH]
    assert [one.rule for one in memory.records(NOW_S + HOUR_S - 1, WALL_S)] == [SYNTH, DROP]
    assert memory.records(NOW_S + HOUR_S, WALL_S) == []
    memory.expire(O3, NOW_S + HOUR_S)
    assert (memory.knows(O3), known(memory)) == (False, [])
    assert memory.commit(key(), SYNTH, "", NOW_S + HOUR_S), "it is news again"
    for vain in (memory.forget, memory.used):
        vain(key(DROP))


def test_forgetting_a_failure_keeps_the_rule_of_the_same_member_with_another_value():
    memory = Memory()
    off, on = (LearnedRule("set", "enable_thinking", value) for value in ("false", "true"))
    assert off.key == on.key
    for forgotten, left in ((on, [(off, "learned")]), (off, [(on, "failed")])):
        memory.commit(key(off), off, "", NOW_S)
        memory.refute(key(on), on, "no", NOW_S)
        assert memory.forget_entry(O3.model, O3.operation, forgotten.entry) == 1
        assert [(one.rule, one.state) for one in memory.records(NOW_S, WALL_S)] == left


def drop(at: int) -> LearnedRule:
    return LearnedRule("drop", f"field_{at}")


def test_of_one_upstream_the_least_recently_used_rule_goes_first():
    memory = Memory(limit=3)
    subjects = [RuleScope("chat", f"m{at}", "chat") for at in range(4)]
    for subject in subjects[:3]:
        memory.commit(key(DROP, subject), DROP, "", NOW_S)
    memory.used(key(DROP, subjects[0]))
    memory.commit(key(DROP, subjects[3]), DROP, "", NOW_S)
    assert [memory.knows(subject) for subject in subjects] == [True, False, True, True]


def test_failed_rules_are_bounded_too():
    memory = Memory(limit=3)
    for at in range(10):
        memory.refute(key(drop(at)), drop(at), "", NOW_S)
    assert [memory.is_blocked(key(drop(at)), NOW_S) for at in (6, 7, 8, 9)] == [False, True, True, True]
    assert [(one.rule, one.state) for one in memory.records(NOW_S, WALL_S)] == [
        (drop(at), "failed") for at in (7, 8, 9)
    ]


def test_a_long_quotation_is_kept_by_no_request():
    memory = Memory()
    memory.commit(key(), SYNTH, f"Invalid value: '{'my secret ' * 10}'.", 0.0)
    (one,) = memory.records(0.0, WALL_S)
    assert one.evidence == "Invalid value: …."
