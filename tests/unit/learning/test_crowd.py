"""Who goes first, and for how long the others wait."""

from gatepass.learning.learned_rule import LearnedRule, RuleScope
from gatepass.learning.memory import CANDIDATE_S, KNOWN_S, MOST_WAIT_S, WAIT_S, SingleTrial

O3 = RuleScope("chat", "o3-mini", "chat")
WAY, OTHER_WAY = (O3, True), (O3, False)
SYNTH = LearnedRule("stream", "synth")
TEMPERATURE = LearnedRule("drop", "temperature")
KEY = (O3, SYNTH.key)


def test_the_first_one_goes_and_the_others_wait_for_it():
    crowd = SingleTrial()
    assert crowd.wait_s("a", WAY, 0.0, 0.0) == 0.0
    assert crowd.wait_s("b", WAY, 0.0, 0.0) == WAIT_S
    assert crowd.wait_s("b", WAY, 0.0, 1.5) == WAIT_S - 1.5
    assert crowd.wait_s("a", WAY, 0.0, 1.0) == 0.0


def test_who_comes_later_waits_no_longer_than_those_before_it():
    crowd = SingleTrial()
    crowd.wait_s("a", WAY, 0.0, 0.0)
    assert crowd.wait_s("b", WAY, 1.5, 1.5) == WAIT_S - 1.5
    assert crowd.wait_s("b", WAY, 1.5, WAIT_S) == 0.0
    assert crowd.wait_s("c", WAY, 30.0, 30.0) == 0.0


def test_nobody_waits_for_one_scout_after_the_other():
    crowd = SingleTrial()
    crowd.wait_s("a", WAY, 0.0, 0.0)
    crowd.leave("a", WAY)
    assert crowd.wait_s("b", WAY, 0.0, 1.5) == 0.0
    assert crowd.wait_s("c", WAY, 0.0, 1.5) == WAIT_S - 1.5
    assert crowd.wait_s("c", WAY, 0.0, WAIT_S) == 0.0
    assert crowd.wait_s("d", WAY, 1.5, 1.5) == WAIT_S


def test_each_lesson_that_the_one_ahead_tries_is_waited_for():
    crowd = SingleTrial()
    crowd.wait_s("a", WAY, 0.0, 0.0)
    crowd.propose(KEY, SYNTH, "", "a", 1.0)
    assert crowd.wait_s("b", WAY, 0.0, WAIT_S) == 1.0
    crowd.propose((O3, TEMPERATURE.key), TEMPERATURE, "", "a", 2.5)
    assert crowd.wait_s("b", WAY, 0.0, 3.0) == 2.5 + WAIT_S - 3.0
    assert crowd.wait_s("b", WAY, 0.0, 2.5 + WAIT_S) == 0.0
    assert crowd.wait_s("c", WAY, 30.0, 30.0) == 0.0


def test_a_lesson_that_one_more_tries_is_waited_for_no_longer():
    crowd = SingleTrial()
    crowd.mark_known("z", WAY, 0.0)
    crowd.propose(KEY, SYNTH, "", "a", 0.0)
    crowd.propose(KEY, SYNTH, "", "b", 1.5)
    assert crowd.wait_s("c", WAY, 0.0, WAIT_S) == 0.0


def test_nobody_waits_for_longer_than_the_bound_whatever_is_tried():
    crowd = SingleTrial()
    crowd.mark_known("z", WAY, 0.0)
    for at_s in range(100):
        lesson = LearnedRule("drop", f"member_{at_s}")
        crowd.propose((O3, lesson.key), lesson, "", "a", float(at_s))
        assert crowd.wait_s("b", WAY, 0.0, float(at_s)) == max(0.0, min(WAIT_S, MOST_WAIT_S - at_s))


def test_a_model_that_has_spoken_makes_nobody_wait_for_an_hour():
    crowd = SingleTrial()
    crowd.wait_s("a", WAY, 0.0, 0.0)
    crowd.mark_known("a", WAY, 0.0)
    for who in ("b", "c"):
        assert crowd.wait_s(who, WAY, 5.0, KNOWN_S - 1) == 0.0
    assert crowd.wait_s("b", WAY, KNOWN_S, KNOWN_S) == 0.0
    assert crowd.wait_s("c", WAY, KNOWN_S, KNOWN_S) == WAIT_S


def test_a_model_of_which_a_rule_has_expired_is_unknown_again():
    crowd, corp = SingleTrial(), (O3._replace(credential="corp"), True)
    for way in (WAY, OTHER_WAY, corp):
        crowd.mark_known("a", way, 0.0)
    crowd.forget(corp[0])
    assert [crowd.is_calm(way, 0.0) for way in (WAY, OTHER_WAY, corp)] == [False] * 3
    crowd.mark_known("a", WAY, 0.0)
    crowd.forget(O3._replace(model="other"))
    assert crowd.is_calm(WAY, 0.0)


def test_a_model_that_has_spoken_lately_and_has_nothing_on_trial_is_calm():
    crowd = SingleTrial()
    assert not crowd.is_calm(WAY, 0.0)
    crowd.mark_known("a", WAY, 0.0)
    assert crowd.is_calm(WAY, KNOWN_S / 2 - 1)
    assert not crowd.is_calm(WAY, KNOWN_S / 2), "so that it speaks again before its time is over"
    assert not crowd.is_calm(OTHER_WAY, 0.0)
    crowd.propose(KEY, SYNTH, "", "a", 0.0)
    assert not crowd.is_calm(WAY, 0.0)
    crowd.settle(KEY)
    assert crowd.is_calm(WAY, 0.0)


def test_streams_and_whole_replies_are_scouted_apart():
    crowd = SingleTrial()
    crowd.wait_s("a", WAY, 0.0, 0.0)
    assert crowd.wait_s("b", OTHER_WAY, 0.0, 0.0) == 0.0
    assert crowd.wait_s("c", (RuleScope("azure", "o3-mini", "chat"), True), 0.0, 0.0) == 0.0


def test_the_next_one_scouts_where_the_first_has_gone():
    crowd = SingleTrial()
    crowd.wait_s("a", WAY, 0.0, 0.0)
    crowd.leave("b", WAY)
    assert crowd.wait_s("b", WAY, 0.0, 0.5) > 0
    crowd.leave("a", WAY)
    assert crowd.wait_s("b", WAY, 0.0, 0.5) == 0.0
    assert crowd.wait_s("c", WAY, 0.0, 0.5) > 0


def test_a_trial_is_waited_for_even_where_the_model_is_known():
    crowd = SingleTrial()
    crowd.mark_known("z", WAY, 0.0)
    crowd.propose(KEY, SYNTH, "e", "a", 0.0)
    assert crowd.wait_s("b", WAY, 0.5, 0.5) == WAIT_S - 0.5
    assert crowd.wait_s("a", WAY, 0.0, 0.5) == 0.0
    crowd.settle(KEY)
    assert crowd.wait_s("b", WAY, 0.0, 0.5) == 0.0
    assert crowd.candidates(O3, 0.5) == []


def test_a_trial_lasts_while_it_is_held_and_a_minute_from_its_beginning():
    crowd = SingleTrial()
    crowd.propose(KEY, SYNTH, "e", "a", 0.0)
    crowd.propose(KEY, SYNTH, "e", "b", 1.0)
    assert [(key, trial.rule) for key, trial in crowd.candidates(O3, 1_000.0)] == [(KEY, SYNTH)]
    crowd.leave("a", WAY)
    assert crowd.candidates(O3, 1_000.0)
    crowd.leave("b", WAY)
    assert crowd.candidates(O3, CANDIDATE_S - 1)
    assert crowd.candidates(O3, CANDIDATE_S) == []


def test_another_lesson_about_the_same_begins_another_trial():
    crowd = SingleTrial()
    crowd.propose(KEY, SYNTH, "e", "a", 0.0)
    crowd.propose(KEY, LearnedRule("stream", "aggregate"), "e", "b", 5.0)
    ((_, trial),) = crowd.candidates(O3, 5.0)
    assert (trial.rule.field, trial.holders) == ("aggregate", {"b"})


def test_a_trial_about_an_account_is_that_accounts():
    crowd, ours = SingleTrial(), RuleScope("chat", "o3-mini", "chat", "corp")
    lesson = LearnedRule("stream", "synth", by_credential=True)
    crowd.propose((ours, lesson.key), lesson, "", "a", 0.0)
    assert crowd.candidates(RuleScope("chat", "o3-mini", "chat", "other"), 0.0) == []
    assert len(crowd.candidates(ours, 0.0)) == 1


def test_a_trial_that_has_helped_lives_on_for_a_minute():
    crowd = SingleTrial()
    crowd.helped(KEY, 0.0)
    assert not crowd.has_helped(KEY)
    crowd.propose(KEY, SYNTH, "", "a", 0.0)
    assert not crowd.has_helped(KEY)
    crowd.helped(KEY, 30.0)
    crowd.leave("a", (O3, True))
    assert crowd.has_helped(KEY)
    assert len(crowd.candidates(O3, 29.0 + CANDIDATE_S)) == 1
    assert crowd.candidates(O3, 30.0 + CANDIDATE_S) == []


def test_who_listens_hears_of_everything_that_may_end_its_wait():
    crowd, heard = SingleTrial(), list[str]()
    end = crowd.listen(RuleScope("chat", "o3-mini", "chat", "corp"), lambda: heard.append("b"))
    also = crowd.listen(O3, lambda: heard.append("c"))
    crowd.wait_s("a", WAY, 0.0, 0.0)
    crowd.propose(KEY, SYNTH, "", "a", 0.0)
    crowd.settle(KEY)
    crowd.mark_known("a", WAY, 0.0)
    assert sorted(heard) == ["b"] * 3 + ["c"] * 3
    also()
    also()
    crowd.wait_s("a", OTHER_WAY, 0.0, 0.0)
    crowd.leave("a", OTHER_WAY)
    crowd.leave("a", OTHER_WAY)
    crowd.settle(KEY)
    assert len(heard) == 7
    end()
    assert crowd._listeners == {}


def test_what_is_held_is_bounded():
    crowd = SingleTrial(limit=2)
    for at in range(5):
        subject = RuleScope("chat", f"m{at}", "chat")
        crowd.mark_known("a", (subject, True), 0.0)
        crowd.propose((subject, SYNTH.key), SYNTH, "", "a", 0.0)
    assert (len(crowd._known), len(crowd._trials)) == (2, 2)
