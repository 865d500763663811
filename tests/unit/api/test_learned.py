"""The rows of several processes as one list."""

from dataclasses import replace

from gatepass.adapt.lesson import HOUR_S, Lesson
from gatepass.adapt.memory import Learned, Subject
from gatepass.api.learned import merged, pinned, shown
from gatepass.config.model import Config

WALL_S = 1_800_000_000.0
ONE = Learned(
    Subject("chat", "o3", "chat"), Lesson("stream", "synth"), "learned", "no stream", WALL_S - 100, WALL_S + HOUR_S, 4
)
SEEN = replace(ONE, state="observed", lesson=Lesson("drop", "seed"))
CONFIG = Config.model_validate({"upstreams": {"chat": {"base_url": "https://h/v1"}}})


def rows(*learned: Learned):
    return [one.as_row() for one in learned]


def test_one_lesson_of_two_processes_is_one_row_with_all_its_uses():
    later = replace(ONE, learned_at=WALL_S - 50, expires_at=WALL_S + HOUR_S + 7, uses=3, evidence="no stream at all")
    together = replace(later, learned_at=ONE.learned_at, uses=7)
    assert merged([rows(ONE), rows(later)]) == merged([rows(later), rows(ONE)]) == rows(together)


def test_rows_about_something_else_stay_apart_in_the_order_of_their_models():
    others = [
        replace(ONE, subject=ONE.subject._replace(upstream="azure")),
        replace(ONE, subject=ONE.subject._replace(credential="corp")),
        replace(ONE, subject=ONE.subject._replace(operation="completions")),
        SEEN,
    ]
    found = merged([rows(*others), rows(ONE), []])
    assert len(found) == 5
    assert [row["upstream"] for row in found] == ["azure", "chat", "chat", "chat", "chat"]
    assert merged([]) == []


def test_people_are_shown_ages():
    (row,) = shown(rows(ONE), WALL_S)
    assert (row["age_s"], row["expires_in_s"], row["uses"], row["evidence"]) == (100, 3600, 4, "no stream")
    (row,) = shown(rows(ONE), WALL_S + 2 * HOUR_S)
    assert row["expires_in_s"] == 0


def test_what_was_only_observed_is_not_pinned():
    assert pinned(rows(SEEN), CONFIG) == "# Nothing has been learned.\n"
    assert "stream: emulate" in pinned(rows(SEEN, ONE), CONFIG)
