"""The memory of an upstream: whose rules, for which values, how long and how many, and what helped or was served."""

from msgspec import structs

from gatepass.learning.learned_rule import LearnedRule, RuleScope
from gatepass.learning.memory import (
    HOUR_S,
    MINUTE_S,
    MOST_FACTS,
    MOST_OF_ALL,
    MOST_OF_CALLER,
    MOST_VALUES,
    VALUES_OF_ALL,
    Memory,
)
from tests.unit.learning.upstreams import O3

SYNTH, AGGREGATE = LearnedRule("stream", "synth"), LearnedRule("stream", "aggregate")
DROP = LearnedRule("drop", "temperature")
NOW_S, WALL_S = 1_000.0, 1_800_000_000.0


def known(memory: Memory, scope: RuleScope = O3, now_s: float = NOW_S) -> list[LearnedRule]:
    return memory.of(scope, now_s)


def commit(memory: Memory, *rules: LearnedRule, scope: RuleScope = O3, now_s: float = NOW_S) -> None:
    for rule in rules:
        memory.commit(scope, rule, "", now_s)


def of(value: object, field: str = "seed") -> LearnedRule:
    return LearnedRule("drop", field, values=frozenset((str(value),)))


def named(at: int) -> LearnedRule:
    return LearnedRule("drop", f"field_{at}")


def caller(name: str, model: str = "m") -> RuleScope:
    return RuleScope(name, "chat", model, "chat")


# --- owner and life


def test_a_rule_belongs_to_the_caller_the_model_and_the_operation_that_taught_it():
    memory = Memory()
    commit(memory, SYNTH)
    for change in ({"owner": "b"}, {"model": "o1"}, {"operation": "messages"}):
        scope = structs.replace(O3, **change)
        assert (known(memory, scope), scope in memory.by_scope) == ([], False)
    assert (known(memory), O3 in memory.by_scope) == ([SYNTH], True)


def test_a_rule_lives_a_minute_and_an_hour_if_it_is_taught_again_after_that():
    memory = Memory()
    assert memory.commit(O3, SYNTH, "", NOW_S) == SYNTH
    assert memory.commit(O3, SYNTH, "", NOW_S + 30) is None, "it is no news, and lives no longer"
    assert known(memory, now_s=NOW_S + MINUTE_S - 1) == [SYNTH]
    again_s = NOW_S + MINUTE_S
    assert (known(memory, now_s=again_s), memory.records(again_s, WALL_S)) == ([], [])
    assert memory.commit(O3, SYNTH, "", again_s) == SYNTH
    assert known(memory, now_s=again_s + HOUR_S - 1) == [SYNTH]
    assert known(memory, now_s=again_s + HOUR_S) == []
    late_s = again_s + 2 * HOUR_S
    assert (known(memory, now_s=late_s), O3 in memory.by_scope) == ([], False)
    assert memory.commit(O3, SYNTH, "", late_s) == SYNTH
    assert known(memory, now_s=late_s + MINUTE_S) == []


def test_a_newer_rule_replaces_what_it_undoes():
    there, back = LearnedRule("rename", "a", "b"), LearnedRule("rename", "b", "a")
    for old, new in (
        (SYNTH, AGGREGATE),
        (there, back),
        (LearnedRule("role", "developer", "system"), LearnedRule("role", "system", "developer")),
        (LearnedRule("content", "empty"), LearnedRule("content", "filled")),
        (LearnedRule("set", "a", "true"), LearnedRule("set", "a", "false")),
        (of(1), LearnedRule("drop", "seed")),
    ):
        memory = Memory()
        commit(memory, old, new)
        assert known(memory) == [new]


def test_rules_that_do_not_undo_each_other_stay():
    rules = [there, *others] = [
        LearnedRule("rename", "a", "b"),
        LearnedRule("set", "a", "true"),
        LearnedRule("set", "b", "false"),
        LearnedRule("drop", "a"),
        LearnedRule("content", "text"),
        LearnedRule("content", "empty"),
    ]
    memory = Memory()
    commit(memory, there, *others)
    assert known(memory) == rules


def test_a_forgotten_rule_is_news_again():
    memory, other = Memory(), caller("b", O3.model)
    commit(memory, SYNTH, DROP)
    memory.forget(O3, SYNTH)
    assert (known(memory), memory.commit(O3, SYNTH, "", NOW_S)) == ([DROP], SYNTH)
    commit(memory, DROP, scope=other)
    assert memory.forget_entry(O3.model, O3.operation, DROP.entry) == 2, "of all callers"
    assert (known(memory), known(memory, other), memory.forget_entry("o1", "chat", "x")) == ([SYNTH], [], 0)
    for vain in (memory.forget, memory.used):
        vain(O3, DROP)


def test_records_show_what_was_learned_without_long_quotes_and_count_uses():
    memory = Memory()
    memory.commit(O3, SYNTH, f"Invalid value: '{'my secret ' * 10}'.", NOW_S)
    memory.commit(O3, LearnedRule("drop", "user"), "No 'jane' here", NOW_S)
    memory.used(O3, SYNTH)
    user, synth = memory.records(NOW_S + 9, WALL_S)
    assert (synth.scope, synth.rule, synth.evidence, synth.uses) == (O3, SYNTH, "Invalid value: ….", 1)
    assert (synth.learned_at, synth.expires_at) == (WALL_S - 9, WALL_S - 9 + MINUTE_S)
    assert (user.evidence, user.uses) == ("No … here", 0)


# --- values


def test_a_rule_holds_for_the_value_that_was_sent_until_three_different_ones_were_refused():
    memory = Memory()
    for value in (7, 7, 8):
        commit(memory, of(value))
    assert known(memory) == [of(7), of(8)]
    assert memory.commit(O3, of(9), "", NOW_S) == LearnedRule("drop", "seed")
    assert known(memory) == [LearnedRule("drop", "seed")]


def test_a_value_that_was_accepted_keeps_rules_for_single_values_for_an_hour():
    memory = Memory()
    memory.accepted(O3, of(1), NOW_S)
    for value in range(VALUES_OF_ALL):
        commit(memory, of(value))
    assert len(known(memory)) == VALUES_OF_ALL
    late_s = NOW_S + HOUR_S
    assert not memory.was_accepted(O3, of(1), late_s)
    assert memory.commit(O3, of(0), "", late_s) == LearnedRule("drop", "seed")


def test_of_one_member_eight_values_are_kept():
    memory = Memory()
    memory.accepted(O3, of(-1), NOW_S)
    commit(memory, of(1, "top_p"), *map(of, range(MOST_VALUES + 2)))
    assert known(memory) == [of(1, "top_p"), *map(of, range(2, MOST_VALUES + 2))]


# --- how many


def test_of_one_caller_the_least_recently_used_rule_goes_first():
    memory = Memory(most_of_caller=3, most_of_all=9)
    commit(memory, *map(named, range(3)))
    commit(memory, DROP, scope=caller("b"))
    memory.used(O3, named(0))
    commit(memory, named(3))
    assert {rule.field for rule in known(memory)} == {"field_0", "field_2", "field_3"}
    assert known(memory, caller("b")) == [DROP]


def test_above_the_limit_of_all_the_caller_with_most_rules_loses_one():
    memory = Memory(most_of_caller=5, most_of_all=6)
    commit(memory, *map(named, range(5)))
    commit(memory, DROP, scope=caller("b"))
    commit(memory, DROP, scope=caller("c"))
    assert [len(known(memory, scope)) for scope in (O3, caller("b"), caller("c"))] == [4, 1, 1]
    assert (MOST_OF_CALLER, MOST_OF_ALL) == (500, 5_000)


def test_helped_useless_and_accepted_are_bounded_too():
    memory = Memory(most_of_caller=3, most_of_all=9)
    for at in range(9):
        memory.note_useless(O3, f"error {at}", NOW_S)
        memory.keep_helped(caller("a", f"m{at}"), {DROP: "no"}, NOW_S)
        memory.accepted(O3, named(at), NOW_S)
    assert sum(memory.is_useless(O3, f"error {at}", NOW_S) for at in range(9)) == 3
    assert sum(bool(memory.helped(caller("a", f"m{at}"), NOW_S)) for at in range(9)) == 3
    assert sum(memory.was_accepted(O3, named(at), NOW_S) for at in range(9)) == 3


# --- what helped, what was useless


def test_what_helped_and_what_was_useless_is_known_for_a_minute_and_for_its_caller():
    memory, other = Memory(), caller("b", O3.model)
    memory.keep_helped(O3, {DROP: "a", SYNTH: "b"}, NOW_S)
    memory.note_useless(O3, "error", NOW_S)
    for now_s, is_known in ((NOW_S + MINUTE_S - 1, True), (NOW_S + MINUTE_S, False)):
        assert memory.helped(O3, now_s) == ({DROP: "a", SYNTH: "b"} if is_known else {})
        assert memory.is_useless(O3, "error", now_s) is is_known
    assert (memory.helped(other, NOW_S), memory.is_useless(other, "error", NOW_S)) == ({}, False)
    assert not memory.is_useless(O3, "another error", NOW_S)
    memory.keep_helped(O3, {}, NOW_S)
    assert memory.helped(O3, NOW_S) == {}


# --- what was served


def test_what_was_never_served_may_be_missing():
    memory = Memory()
    assert memory.may_store_missing(O3, NOW_S)
    memory.note_served(O3, NOW_S, is_stream=False)
    assert memory.may_store_missing(O3, NOW_S, is_stream=True), "whole replies were"
    assert memory.may_store_missing(caller("b"), NOW_S, is_stream=False)


def test_two_refusals_a_minute_apart_end_what_was_served_within_the_hour():
    for is_stream in (True, None):
        memory = Memory()
        memory.note_served(O3, NOW_S, is_stream=True)
        assert not memory.may_store_missing(O3, NOW_S + 1, is_stream=is_stream)
        assert not memory.may_store_missing(O3, NOW_S + MINUTE_S, is_stream=is_stream)
        assert memory.may_store_missing(O3, NOW_S + 1 + MINUTE_S, is_stream=is_stream)
        assert memory.may_store_missing(O3, NOW_S + 2 + MINUTE_S, is_stream=is_stream)


def test_a_kind_that_is_served_between_two_refusals_is_not_missing():
    memory = Memory()
    memory.note_served(O3, NOW_S, is_stream=True)
    assert not memory.may_store_missing(O3, NOW_S + 1, is_stream=True)
    memory.note_served(O3, NOW_S + 2, is_stream=True)
    assert not memory.may_store_missing(O3, NOW_S + 1 + MINUTE_S, is_stream=True)


def test_what_was_served_is_known_for_an_hour_and_of_a_thousand_models():
    memory = Memory()
    memory.note_served(O3, NOW_S, is_stream=True)
    assert not memory.may_store_missing(O3, NOW_S + HOUR_S - 1, is_stream=True)
    assert memory.may_store_missing(O3, NOW_S + HOUR_S, is_stream=True)
    for at in range(MOST_FACTS + 1):
        memory.note_served(caller("a", f"m{at}"), NOW_S, is_stream=True)
    assert memory.may_store_missing(caller("a", "m0"), NOW_S, is_stream=True)
    assert not memory.may_store_missing(caller("a", f"m{MOST_FACTS}"), NOW_S, is_stream=True)
