"""Which request leads a trial, and for how long the others wait."""

from msgspec import structs

from gatepass.learning.learned_rule import LearnedRule, RuleScope
from gatepass.learning.memory import CANDIDATE_S, KNOWN_S, MOST_WAIT_S, WAIT_S, SingleTrial
from tests.memory import traced_memory

O3 = RuleScope("chat", "o3-mini", "chat")
TRIAL_KEY, OTHER_KEY = (O3, True), (O3, False)
SYNTH = LearnedRule("stream", "synth")
TEMPERATURE = LearnedRule("drop", "temperature")
KEY = (O3, SYNTH.key)


def test_the_first_one_goes_and_the_others_wait_for_it():
    single_trial = SingleTrial()
    assert single_trial.wait_s("a", TRIAL_KEY, 0.0, 0.0) == 0.0
    assert single_trial.wait_s("b", TRIAL_KEY, 0.0, 0.0) == WAIT_S
    assert single_trial.wait_s("b", TRIAL_KEY, 0.0, 1.5) == WAIT_S - 1.5
    assert single_trial.wait_s("a", TRIAL_KEY, 0.0, 1.0) == 0.0


def test_a_request_that_comes_later_waits_no_longer_than_those_before_it():
    single_trial = SingleTrial()
    single_trial.wait_s("a", TRIAL_KEY, 0.0, 0.0)
    assert single_trial.wait_s("b", TRIAL_KEY, 1.5, 1.5) == WAIT_S - 1.5
    assert single_trial.wait_s("b", TRIAL_KEY, 1.5, WAIT_S) == 0.0
    assert single_trial.wait_s("c", TRIAL_KEY, 30.0, 30.0) == 0.0


def test_no_request_waits_for_one_leader_after_the_other():
    single_trial = SingleTrial()
    single_trial.wait_s("a", TRIAL_KEY, 0.0, 0.0)
    single_trial.leave("a", TRIAL_KEY)
    assert single_trial.wait_s("b", TRIAL_KEY, 0.0, 1.5) == 0.0
    assert single_trial.wait_s("c", TRIAL_KEY, 0.0, 1.5) == WAIT_S - 1.5
    assert single_trial.wait_s("c", TRIAL_KEY, 0.0, WAIT_S) == 0.0
    assert single_trial.wait_s("d", TRIAL_KEY, 1.5, 1.5) == WAIT_S


def test_each_rule_that_the_one_ahead_tries_is_waited_for():
    single_trial = SingleTrial()
    single_trial.wait_s("a", TRIAL_KEY, 0.0, 0.0)
    single_trial.propose(KEY, SYNTH, "", "a", 1.0)
    assert single_trial.wait_s("b", TRIAL_KEY, 0.0, WAIT_S) == 1.0
    single_trial.propose((O3, TEMPERATURE.key), TEMPERATURE, "", "a", 2.5)
    assert single_trial.wait_s("b", TRIAL_KEY, 0.0, 3.0) == 2.5 + WAIT_S - 3.0
    assert single_trial.wait_s("b", TRIAL_KEY, 0.0, 2.5 + WAIT_S) == 0.0
    assert single_trial.wait_s("c", TRIAL_KEY, 30.0, 30.0) == 0.0


def test_a_rule_that_one_more_tries_is_waited_for_no_longer():
    single_trial = SingleTrial()
    single_trial.mark_known("z", TRIAL_KEY, 0.0)
    single_trial.propose(KEY, SYNTH, "", "a", 0.0)
    single_trial.propose(KEY, SYNTH, "", "b", 1.5)
    assert single_trial.wait_s("c", TRIAL_KEY, 0.0, WAIT_S) == 0.0


def test_no_request_waits_for_longer_than_the_bound_whatever_is_tried():
    single_trial = SingleTrial()
    single_trial.mark_known("z", TRIAL_KEY, 0.0)
    for at_s in range(100):
        learned_rule = LearnedRule("drop", f"member_{at_s}")
        single_trial.propose((O3, learned_rule.key), learned_rule, "", "a", float(at_s))
        assert single_trial.wait_s("b", TRIAL_KEY, 0.0, float(at_s)) == max(0.0, min(WAIT_S, MOST_WAIT_S - at_s))


def test_a_model_that_has_replied_makes_no_request_wait_for_an_hour():
    single_trial = SingleTrial()
    single_trial.wait_s("a", TRIAL_KEY, 0.0, 0.0)
    single_trial.mark_known("a", TRIAL_KEY, 0.0)
    for who in ("b", "c"):
        assert single_trial.wait_s(who, TRIAL_KEY, 5.0, KNOWN_S - 1) == 0.0
    assert single_trial.wait_s("b", TRIAL_KEY, KNOWN_S, KNOWN_S) == 0.0
    assert single_trial.wait_s("c", TRIAL_KEY, KNOWN_S, KNOWN_S) == WAIT_S


def test_a_model_of_which_a_rule_has_expired_is_unknown_again():
    single_trial, corp = SingleTrial(), (structs.replace(O3, credential="corp"), True)
    for way in (TRIAL_KEY, OTHER_KEY, corp):
        single_trial.mark_known("a", way, 0.0)
    single_trial.forget(corp[0])
    assert [single_trial.needs_no_trial_until_s(way) for way in (TRIAL_KEY, OTHER_KEY, corp)] == [0.0] * 3
    single_trial.mark_known("a", TRIAL_KEY, 0.0)
    single_trial.forget(structs.replace(O3, model="other"))
    assert single_trial.needs_no_trial_until_s(TRIAL_KEY) > 0.0


def test_a_model_that_has_replied_lately_and_has_nothing_on_trial_needs_no_trial():
    single_trial = SingleTrial()
    assert single_trial.needs_no_trial_until_s(TRIAL_KEY) == 0.0
    single_trial.mark_known("a", TRIAL_KEY, 0.0)
    # so that a reply renews its time before it ends
    assert single_trial.needs_no_trial_until_s(TRIAL_KEY) == KNOWN_S / 2
    assert single_trial.needs_no_trial_until_s(OTHER_KEY) == 0.0
    single_trial.propose(KEY, SYNTH, "", "a", 0.0)
    assert single_trial.needs_no_trial_until_s(TRIAL_KEY) == 0.0
    single_trial.settle(KEY)
    assert single_trial.needs_no_trial_until_s(TRIAL_KEY) > 0.0


def test_streams_and_whole_replies_are_tried_apart():
    single_trial = SingleTrial()
    single_trial.wait_s("a", TRIAL_KEY, 0.0, 0.0)
    assert single_trial.wait_s("b", OTHER_KEY, 0.0, 0.0) == 0.0
    assert single_trial.wait_s("c", (RuleScope("azure", "o3-mini", "chat"), True), 0.0, 0.0) == 0.0


def test_next_request_becomes_leader_if_the_first_has_ended():
    single_trial = SingleTrial()
    single_trial.wait_s("a", TRIAL_KEY, 0.0, 0.0)
    single_trial.leave("b", TRIAL_KEY)
    assert single_trial.wait_s("b", TRIAL_KEY, 0.0, 0.5) > 0
    single_trial.leave("a", TRIAL_KEY)
    assert single_trial.wait_s("b", TRIAL_KEY, 0.0, 0.5) == 0.0
    assert single_trial.wait_s("c", TRIAL_KEY, 0.0, 0.5) > 0


def test_requests_wait_for_a_trial_even_if_the_model_is_known():
    single_trial = SingleTrial()
    single_trial.mark_known("z", TRIAL_KEY, 0.0)
    single_trial.propose(KEY, SYNTH, "e", "a", 0.0)
    assert single_trial.wait_s("b", TRIAL_KEY, 0.5, 0.5) == WAIT_S - 0.5
    assert single_trial.wait_s("a", TRIAL_KEY, 0.0, 0.5) == 0.0
    single_trial.settle(KEY)
    assert single_trial.wait_s("b", TRIAL_KEY, 0.0, 0.5) == 0.0
    assert single_trial.candidates(O3, 0.5) == {}


def test_a_trial_lasts_while_it_is_held_and_a_minute_from_its_beginning():
    single_trial = SingleTrial()
    single_trial.propose(KEY, SYNTH, "e", "a", 0.0)
    single_trial.propose(KEY, SYNTH, "e", "b", 1.0)
    assert [(key, trial.rule) for key, trial in single_trial.candidates(O3, 1_000.0).items()] == [(KEY, SYNTH)]
    single_trial.leave("a", TRIAL_KEY)
    assert single_trial.candidates(O3, 1_000.0)
    single_trial.leave("b", TRIAL_KEY)
    assert single_trial.candidates(O3, CANDIDATE_S - 1)
    assert single_trial.candidates(O3, CANDIDATE_S) == {}


def test_another_rule_about_the_same_begins_another_trial():
    single_trial = SingleTrial()
    single_trial.propose(KEY, SYNTH, "e", "a", 0.0)
    single_trial.propose(KEY, LearnedRule("stream", "aggregate"), "e", "b", 5.0)
    (trial,) = single_trial.candidates(O3, 5.0).values()
    assert (trial.rule.field, trial.holders) == ("aggregate", {"b"})


def test_a_trial_about_an_account_is_that_accounts():
    single_trial, ours = SingleTrial(), RuleScope("chat", "o3-mini", "chat", "corp")
    learned_rule = LearnedRule("stream", "synth", by_credential=True)
    single_trial.propose((ours, learned_rule.key), learned_rule, "", "a", 0.0)
    assert single_trial.candidates(RuleScope("chat", "o3-mini", "chat", "other"), 0.0) == {}
    assert len(single_trial.candidates(ours, 0.0)) == 1


def test_a_trial_that_has_helped_lives_on_for_a_minute():
    single_trial = SingleTrial()
    single_trial.helped(KEY, 0.0)
    assert not single_trial.has_helped(KEY)
    single_trial.propose(KEY, SYNTH, "", "a", 0.0)
    assert not single_trial.has_helped(KEY)
    single_trial.helped(KEY, 30.0)
    single_trial.leave("a", (O3, True))
    assert single_trial.has_helped(KEY)
    assert len(single_trial.candidates(O3, 29.0 + CANDIDATE_S)) == 1
    assert single_trial.candidates(O3, 30.0 + CANDIDATE_S) == {}


def test_a_listening_request_is_notified_of_every_possible_end_of_its_wait():
    single_trial, rejection = SingleTrial(), list[str]()
    end = single_trial.listen(RuleScope("chat", "o3-mini", "chat", "corp"), lambda: rejection.append("b"))
    also = single_trial.listen(O3, lambda: rejection.append("c"))
    single_trial.wait_s("a", TRIAL_KEY, 0.0, 0.0)
    single_trial.propose(KEY, SYNTH, "", "a", 0.0)
    single_trial.settle(KEY)
    single_trial.mark_known("a", TRIAL_KEY, 0.0)
    assert sorted(rejection) == ["b"] * 3 + ["c"] * 3
    also()
    also()
    single_trial.wait_s("a", OTHER_KEY, 0.0, 0.0)
    single_trial.leave("a", OTHER_KEY)
    single_trial.leave("a", OTHER_KEY)
    single_trial.settle(KEY)
    assert len(rejection) == 7
    end()
    single_trial.notify(O3)
    assert len(rejection) == 7


def test_requests_that_have_ended_take_no_memory():
    single_trial = SingleTrial()
    with traced_memory() as memory:
        for number in range(1000):
            end = single_trial.listen(RuleScope("chat", f"model-{number}", "chat"), lambda: None)
            end()
    assert memory.kept_bytes < 20_000


def test_models_and_trials_beyond_the_limit_take_no_memory():
    single_trial = SingleTrial(limit=2)
    with traced_memory() as memory:
        for at in range(1000):
            subject = RuleScope("chat", f"m{at}", "chat")
            single_trial.mark_known("a", (subject, True), 0.0)
            single_trial.propose((subject, SYNTH.key), SYNTH, "", "a", 0.0)
    assert memory.kept_bytes < 20_000
    assert [single_trial.candidates(RuleScope("chat", f"m{at}", "chat"), 0.0) != {} for at in (997, 998, 999)] == [
        False,
        True,
        True,
    ]
