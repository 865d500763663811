"""What the inspector keeps of requests, and how it renders it."""

from __future__ import annotations

from gatepass.observability.inspector import ANONYMOUS, RECORD_BYTES, InspectedRequest, Inspector
from gatepass.observability.observer import AccessRecord, AttemptRecord, RequestRecord
from gatepass.observability.story import closed_by, has_id, matches, story_of, summary_of


def access(name: str = "one", caller: str = "app", **fields: object) -> AccessRecord:
    record = AccessRecord(name, "POST", "/v1/chat/completions", "chat", caller, model="m", outcome="ok")
    for field, value in fields.items():
        setattr(record, field, value)
    return record


def ended(record: AccessRecord, attempt: AttemptRecord | None = None, arrived_s: float = 0.0) -> RequestRecord:
    return RequestRecord(record, attempt, None, arrived_s, 0.1, 2.0, 1.0, 0.5, is_synthesized=False)


def kept(inspector: Inspector) -> list[str]:
    return [one.access.id for one in inspector.newest()]


def test_the_oldest_requests_make_room():
    inspector = Inspector()
    inspector.limit(3 * RECORD_BYTES)
    for number in range(5):
        inspector.request_ended(ended(access(str(number))))
    assert (kept(inspector), inspector.held_bytes, inspector.evicted) == (["4", "3", "2"], 3 * RECORD_BYTES, 2)
    inspector.limit(RECORD_BYTES)
    assert kept(inspector) == ["4"]
    inspector.limit(0)
    assert (kept(inspector), inspector.held_bytes) == ([], 0)


def test_a_long_error_takes_more_room():
    inspector = Inspector()
    inspector.limit(10 * RECORD_BYTES)
    for number in range(5):
        inspector.request_ended(ended(access(str(number), outcome="error", code="x", reason="r" * 1_000)))
    assert kept(inspector) == ["4", "3", "2"]


def test_a_flood_without_a_key_evicts_no_other_request():
    inspector = Inspector()
    inspector.limit(3 * RECORD_BYTES)
    inspector.request_ended(ended(access("good")))
    for number in range(1_000):
        inspector.request_ended(ended(access(str(number), caller="")))
    assert "good" in kept(inspector)
    assert len(kept(inspector)) == ANONYMOUS + 1


def request(record: AccessRecord, *attempts: AttemptRecord, duration_s: float | None = 2.0) -> InspectedRequest:
    last = None
    for one in attempts:
        one.after, last = last, one
    return InspectedRequest(record, last, 100.0, 0.1, duration_s, 1.0, 0.5)


def test_a_summary_has_the_times_of_the_wall_clock():
    shown = summary_of(request(access()), 110.0, 1_000_000_010.0, str)
    assert (shown["arrived_at"], shown["ended"], shown["state"]) == (
        "2001-09-09T01:46:40.000Z",
        102.0,
        "ended",
    )
    running = summary_of(request(access(outcome=""), duration_s=None), 110.0, 1_000_000_010.0, str)
    assert (running["state"], running["ended"], running["duration_s"]) == ("running", None, 10.0)


def test_filters_compare_fields_and_search_texts():
    shown = summary_of(request(access(code="upstream_timeout", hop="upstream:corp")), 110.0, 0.0, str)
    assert matches(shown, {})
    assert matches(shown, {"caller": "app", "hop": "upstream:corp", "text": "TIMEOUT"})
    assert not matches(shown, {"caller": "other"})
    assert not matches(shown, {"text": "nowhere"})


def test_a_request_is_found_by_its_id_and_by_those_of_every_upstream():
    first, last = (
        AttemptRecord("one", "chat", "m", "corp", upstream_request_id=name) for name in ("up-1", "up-2,up-3")
    )
    found = request(access("one"), first, last)
    assert all(has_id(found, name) for name in ("one", "up-1", "up-2", "up-3"))
    assert not any(has_id(found, name) for name in ("", "up", "up-2,up-3"))


def test_a_story_has_all_attempts_in_order_and_no_secret():
    first = AttemptRecord("one", "chat", "m", "a", began_s=100.5, outcome="connection_failed", code="upstream_connect")
    last = AttemptRecord(
        "one", "chat", "m", "b", "m2", began_s=101.0, number=2, cause="next_target", outcome="complete"
    )
    record = access(reason="the token sk-secret was refused", code="upstream_auth", hop="upstream:b", outcome="error")
    story = story_of(request(record, first, last), 110.0, 0.0, lambda text: text.replace("sk-secret", "***"))
    assert [(one["upstream"], one["began_s"], one["outcome"]) for one in story["attempts"]] == [
        ("a", 0.5, "connection_failed"),
        ("b", 1.0, "complete"),
    ]
    assert story["error"] == {
        "code": "upstream_auth",
        "hop": "upstream:b",
        "message": "the token *** was refused",
        "page": "docs/reference/errors.md#upstream_auth",
    }
    assert "sk-secret" not in str(story)


def test_who_closed_first():
    attempt = AttemptRecord("one", "chat", "m", "a", outcome="cut")
    assert closed_by(access(outcome=""), None) is None
    assert closed_by(access(outcome="client_gone"), attempt) == "client"
    assert closed_by(access(outcome="error"), attempt) == "upstream"
    assert closed_by(access(outcome="error"), None) == "gatepass"
