"""What the inspector keeps of requests, and how it renders it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gatepass.cli import options
from gatepass.dialects.hints import model_hint, token_hint
from gatepass.errors import InvalidImage
from gatepass.normalize.ragflow_body import RagflowBody
from gatepass.observability.inspector import ANONYMOUS, RECORD_BYTES, Inspector
from gatepass.observability.observer import AccessRecord, Arrivals, AttemptRecord, NotTried, RequestRecord, SentToken
from gatepass.observability.story import (
    CALL_OPERATIONS,
    action_of,
    case_of,
    closed_by,
    has_id,
    matches,
    names_of,
    story_of,
    summary_of,
)
from gatepass.observability.story import (
    test_command as command_of,
)
from gatepass.tokens.holder import AFTER_REPAIR
from gatepass.types import RuleEdit, RuleEdits, Target
from tests.unit.normalize.calls import a_call


def access(name: str = "one", caller: str = "app", **fields: object) -> AccessRecord:
    record = AccessRecord(name, "POST", "/v1/chat/completions", "chat", caller, model="m", outcome="ok")
    for field, value in fields.items():
        setattr(record, field, value)
    return record


def ended(record: AccessRecord, attempt: AttemptRecord | None = None, arrived_s: float = 0.0) -> RequestRecord:
    return RequestRecord(record, attempt, arrived_s, 0.1, 2.0, 1.0, 0.5)


def kept(inspector: Inspector) -> list[str]:
    return [one.access.id for one in inspector.newest()]


def test_the_oldest_requests_make_room():
    inspector = Inspector()
    inspector.limit(3 * RECORD_BYTES)
    for number in range(5):
        inspector.request_ended(ended(access(str(number))), None)
    assert (kept(inspector), inspector.held_bytes, inspector.evicted) == (["4", "3", "2"], 3 * RECORD_BYTES, 2)
    inspector.limit(RECORD_BYTES)
    assert kept(inspector) == ["4"]
    inspector.limit(0)
    assert (kept(inspector), inspector.held_bytes) == ([], 0)


def test_a_long_error_takes_more_room():
    inspector = Inspector()
    inspector.limit(10 * RECORD_BYTES)
    for number in range(5):
        inspector.request_ended(ended(access(str(number), outcome="error", code="x", reason="r" * 4_000)), None)
    assert kept(inspector) == ["4", "3", "2"]


def test_a_flood_without_a_key_evicts_no_other_request():
    inspector = Inspector()
    inspector.limit(3 * RECORD_BYTES)
    inspector.request_ended(ended(access("good")), None)
    for number in range(1_000):
        inspector.request_ended(ended(access(str(number), caller="")), None)
    assert "good" in kept(inspector)
    assert len(kept(inspector)) == ANONYMOUS + 1


def test_requests_without_a_key_stand_among_the_others_by_their_end():
    inspector = Inspector()
    inspector.limit(9 * RECORD_BYTES)
    for arrived_s, name in enumerate(("app 0", "unknown 1", "app 2", "unknown 3", "app 4")):
        caller = "app" if name.startswith("app") else ""
        inspector.request_ended(ended(access(name, caller=caller), arrived_s=float(arrived_s)), None)
    assert kept(inspector) == ["app 4", "unknown 3", "app 2", "unknown 1", "app 0"]


def request(record: AccessRecord, *attempts: AttemptRecord, duration_s: float | None = 2.0) -> RequestRecord:
    last = None
    for one in attempts:
        one.after, last = last, one
    return RequestRecord(record, last, 100.0, 0.1, duration_s, 1.0, 0.5)


def test_a_summary_has_the_times_of_the_wall_clock():
    shown = summary_of(request(access()), 110.0, 1_000_000_010.0, str)
    assert (shown["arrived_at"], shown["ended"], shown["state"]) == (
        "2001-09-09T01:46:40.000Z",
        102.0,
        "ended",
    )
    running = summary_of(request(access(outcome=""), duration_s=None), 110.0, 1_000_000_010.0, str)
    assert (running["state"], running["ended"], running["duration_s"]) == ("running", None, 10.0)
    tried = request(access(outcome=""), AttemptRecord("one", "chat", "m", "corp"), duration_s=None)
    assert summary_of(tried, 110.0, 0.0, str)["upstream"] == "corp"


def test_filters_compare_fields_and_search_texts():
    shown = summary_of(request(access(code="upstream_timeout", hop="upstream:corp")), 110.0, 0.0, str)
    assert matches(shown, {})
    assert matches(shown, {"caller": "app", "hop": "upstream:corp", "text": "TIMEOUT"})
    assert not matches(shown, {"caller": "other"})
    assert not matches(shown, {"text": "nowhere"})
    own = summary_of(request(access(code="NoQuota", hop="upstream:a", reason="no quota left")), 110.0, 0.0, str)
    assert all(
        matches(own, {name: value})
        for name, value in (("code", "NoQuota"), ("kind", "NoQuota"), ("kind", "upstream_error"))
    )
    assert matches(own, {"text": "quota LEFT"})
    assert not matches(own, {"kind": "upstream_auth"})
    assert not matches(own, {"code": "upstream_error"})
    assert matches(own, {"text": "chat noquota"})
    assert not matches(own, {"text": "chat nowhere"})


def test_a_request_that_succeeded_matches_no_code():
    failed = AttemptRecord("one", "chat", "m", "a", code="NoQuota", outcome="error_reply")
    last = AttemptRecord("one", "chat", "m", "b", outcome="complete")
    for record in (access(status=200, outcome="ok"), access(status=0, outcome="")):
        shown = summary_of(request(record, failed, last), 110.0, 0.0, str)
        assert not any(matches(shown, {"kind": code}) for code in ("upstream_error", "NoQuota"))


def test_a_name_of_a_model_that_the_route_changes_is_an_edit():
    record = AttemptRecord("one", "chat", "gpt-4o", "a", "deploy-7", outcome="complete")
    (edit,) = story_of(request(access(), record), 110.0, 0.0, str)["attempts"][0]["edits"]
    assert (edit["path"], edit["before_text"], edit["after_text"]) == ("model", "gpt-4o", "deploy-7")


def test_the_silence_before_a_cut_and_until_now_is_a_gap():
    arrivals = Arrivals(100.2)
    arrivals.note(100.3)
    cut = AttemptRecord("one", "chat", "m", "a", began_s=100.0, outcome="cut", duration_s=1.3, arrivals=arrivals)
    running = AttemptRecord("one", "chat", "m", "a", began_s=100.0, arrivals=arrivals)
    whole = AttemptRecord("one", "chat", "m", "a", began_s=100.0, outcome="complete", duration_s=9.0, arrivals=arrivals)
    longest = [
        story_of(request(access(), one), 105.0, 0.0, str)["attempts"][0]["arrivals"]["gaps"][0]
        for one in (cut, running, whole)
    ]
    assert longest == [{"at_s": 0.3, "length_s": 1.0}, {"at_s": 0.3, "length_s": 4.7}, {"at_s": 0.2, "length_s": 0.1}]


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
    error = story["error"]
    assert error.pop("action").startswith("Correct what the message names. `gatepass doctor m --call`")
    names = {"{upstream: NAME}": "{upstream: b}", "doctor MODEL --call": "doctor m --call"}
    assert names.items() <= error.pop("names").items()
    assert story["error"] == {
        "code": "upstream_auth",
        "hop": "upstream:b",
        "message": "the token *** was refused",
        "kind": "upstream_auth",
        "case": "",
        "test": "gatepass doctor m --call",
        "page": "",
        "retry_after_s": None,
    }
    assert "sk-secret" not in str(story)


@pytest.mark.parametrize(
    ("status", "message", "action"),
    [
        (
            404,
            "Not Found. The upstream has no such path: it does not support this operation",
            "Set `operations.",
        ),
        (429, "slow down", "Wait, or ask the owner of the upstream"),
        (404, "The model does not exist", "Follow the upstream's message. If it does not know the model"),
        (400, "out of credit", "Follow the upstream's message."),
        (500, "CUDA error: out of memory", "The upstream failed. If its message names nothing to correct, retry"),
        (500, "unknown model m", "Follow the upstream's message. If it does not know the model"),
    ],
)
def test_the_action_of_an_upstreams_own_error_follows_from_its_status(status: int, message: str, action: str):
    record = access(reason=message, code="102", hop="upstream:b", status=status, outcome="error")
    assert story_of(request(record), 110.0, 0.0, str)["error"]["action"].startswith(action)


def test_who_closed_first():
    def who(ended: str, attempted: str = "", code: str | None = None, **fields: object) -> str | None:
        attempt = AttemptRecord("one", "chat", "m", "a", outcome=attempted, code=code) if attempted else None
        return closed_by(replace(request(access(outcome=ended)), attempt=attempt, **fields))

    assert who("", "") is None
    assert who("ok", "complete") == "upstream"
    assert who("ok") == "gatepass"  # its own list of models
    assert who("error") == "gatepass"
    assert who("client_gone", "client_gone") == "client"
    assert who("client_gone", "complete", gave_up=True) == "gatepass"
    assert {who("error", one) for one in ("cut", "error_reply", "token_rejected")} == {"upstream"}
    of_gatepass = ("complete", "nothing_written", "timed_out", "drained", "invalid", "client_gone")
    assert {who("error", one) for one in of_gatepass} == {"gatepass"}
    assert who("error", "connection_failed", "upstream_closed") == "upstream"
    assert {who("error", "connection_failed", f"upstream_{one}") for one in ("dns", "connect", "tls")} == {None}


def test_a_story_has_the_times_of_the_token_and_of_the_connection():
    record = AttemptRecord("one", "chat", "m", "a", began_s=100.0, outcome="complete")
    record.token = SentToken("corp", 103.0, 20.0, 240.0)
    record.token_wait_s, record.pool_wait_s, record.connect_s, record.head_s = 2.0, 0.25, 0.5, 3.5
    record.not_tried = (NotTried("a", "m", "waits"), NotTried("b", "m", "ejected"), NotTried("c", "m2", "full"))
    story = story_of(request(access(), record), 110.0, 0.0, str)
    attempt = story["attempts"][0]
    assert attempt["token"] == {"credential": "corp", "age_s": 83.0, "left_s": 157.0, "wait_s": 2.0, "renewal_s": 0.0}
    assert [attempt[name] for name in ("pool_wait_s", "connect_s", "head_s")] == [0.25, 0.5, 3.5]
    assert story["not_tried"] == [
        {"upstream": "b", "model": "m", "state": "ejected"},
        {"upstream": "c", "model": "m2", "state": "full"},
    ]


def test_what_is_not_known_of_a_token_is_null():
    without, failed, lasting = (AttemptRecord("one", "chat", "m", "a", outcome="complete") for _ in range(3))
    failed.token, failed.token_wait_s = SentToken("corp"), 1.0
    lasting.token = SentToken("fixed", 103.0, 20.0)
    tokens = [
        one["token"] for one in story_of(request(access(), without, failed, lasting), 110.0, 0.0, str)["attempts"]
    ]
    assert tokens == [
        None,
        {"credential": "corp", "age_s": None, "left_s": None, "wait_s": 1.0, "renewal_s": 0.0},
        {"credential": "fixed", "age_s": None, "left_s": None, "wait_s": 0.0, "renewal_s": 0.0},
    ]


def test_the_wait_for_a_token_is_the_time_of_its_credential_alone():
    """Before a request is sent, and after its rejection: gatepass added neither."""
    record = AttemptRecord("one", "chat", "m", "a", outcome="token_rejected", token=SentToken("corp"))
    record.token_wait_s, record.head_s, record.duration_s = 10.5, 1.0, 11.0
    ended = replace(request(access(), record), added_s=10.502)
    story = story_of(ended, 110.0, 0.0, str)
    assert story["timings"]["added_s"] == 0.002
    assert [story["attempts"][0]["token"][name] for name in ("wait_s", "renewal_s")] == [0.5, 10.0]


def test_a_rejected_key_that_does_not_expire_waited_for_no_new_one():
    record = AttemptRecord("one", "chat", "m", "a", outcome="token_rejected", token=SentToken("fixed", 100.0, 20.0))
    record.token_wait_s, record.head_s, record.duration_s = 0.0005, 1.0, 1.0005
    story = story_of(request(access(), record), 110.0, 0.0, str)
    assert [story["attempts"][0]["token"][name] for name in ("wait_s", "renewal_s")] == [0.0, 0.0]


def test_an_error_has_the_wait_that_it_asks_for():
    record = AttemptRecord("one", "chat", "m", "a", outcome="error_reply", code="upstream_error", retry_after_s=17.0)
    limited = access(code="rate", hop="upstream:a", outcome="error", reason="Slow down.")
    story = story_of(replace(request(limited, record), retry_after_s=17.0), 110.0, 0.0, str)
    assert (story["error"]["retry_after_s"], story["attempts"][0]["retry_after_s"]) == (17.0, 17.0)


@pytest.mark.parametrize(
    ("plain", "size_bytes", "value"), [("true", 4, "true"), ("12345", 5, "12345"), ("1", 40, None), ('"', 9, None)]
)
def test_booleans_and_numbers_are_shown_and_texts_are_not(plain: str, size_bytes: int, value: str | None):
    record = AttemptRecord("one", "chat", "m", "a", edits=RuleEdits((RuleEdit("r", "p", plain, size_bytes),)))
    (edit,) = story_of(request(access(), record), 110.0, 0.0, str)["attempts"][0]["edits"]
    assert edit["before"].get("value") == value


def test_an_upstream_that_no_token_led_to_was_not_reached():
    sent = AttemptRecord("one", "chat", "m", "a", outcome="complete", status=200)
    failed = AttemptRecord("one", "chat", "m", "b", outcome="nothing_written", code="token_unavailable")
    attempts = story_of(request(access(), sent, failed), 110.0, 0.0, str)["attempts"]
    assert [one["reached"] for one in attempts] == [True, False]


def test_texts_of_an_attempt_are_masked():
    edit = RuleEdit("drop=sk-secret", "sk-secret.a", "1", 3, "1", 3, "b.sk-secret")
    record = AttemptRecord("one", "chat", "m", "a", outcome="error_reply", reason="no sk-secret here")
    record.edits, record.adapted, record.tried = RuleEdits((edit,), left_out=2), ("drop=sk-secret",), ("set=sk-secret",)
    story = story_of(request(access(), record), 110.0, 0.0, lambda text: text.replace("sk-secret", "***"))
    attempt = story["attempts"][0]
    assert (attempt["reason"], attempt["edits_left_out"]) == ("no *** here", 2)
    value = {"type": "number", "size_bytes": 3}
    shown = {"rule": "drop=***", "path": "***.a", "before": value, "after": value, "moved_to": "b.***"}
    assert (attempt["edits"], attempt["adapted"], attempt["tried"]) == ([shown], ["drop=***"], ["set=***"])


def test_the_method_and_the_tool_of_an_mcp_message_are_masked_and_searched():
    message = request(access(operation="mcp", model="", mcp_method="tools/call", mcp_tool="find-s3cret"))
    shown = summary_of(message, 110.0, 0.0, lambda text: text.replace("s3cret", "***"))
    assert (shown["mcp_method"], shown["mcp_tool"]) == ("tools/call", "find-***")
    assert matches(shown, {"text": "FIND"})
    assert not matches(shown, {"text": "s3cret"})


@pytest.mark.parametrize(
    ("operation", "command"),
    [
        ("chat", "gatepass doctor bge --call"),
        ("rerank", "gatepass doctor bge --operation rerank --call"),
        ("messages", "gatepass doctor bge --operation messages --call"),
        ("speech", "gatepass doctor bge"),  # doctor has no call for it
    ],
)
def test_the_command_that_tests_the_hop_sends_the_operation_of_the_request(operation: str, command: str):
    record = access(code="102", hop="upstream:b", status=404, outcome="error", model="bge", operation=operation)
    assert story_of(request(record), 110.0, 0.0, str)["error"]["test"] == command


def test_the_operations_of_the_command_are_those_of_doctor():
    assert {"chat", *CALL_OPERATIONS} == set(options.CALL_OPERATIONS)


def test_the_command_that_tests_another_hop_names_it():
    assert command_of("upstream:mcp/search", "", "mcp") == "gatepass doctor --mcp search"
    assert command_of("credential:corp", "m", "chat") == "gatepass token corp"
    assert command_of("client", "m", "chat") == ""


def action(code: str, hop: str, case: str = "", *, message: str = "", **known: str) -> str:
    operation, model, credential = (known.get(name, "") for name in ("operation", "model", "credential"))
    names = names_of(hop, operation, model, credential, message)
    return action_of(code, hop, case, names)


def test_the_action_for_a_path_that_is_missing_names_the_operation():
    found = action("102", "upstream:b", "no_path", operation="embeddings", model="bge")
    assert "set `operations.embeddings.upstream` to an upstream that has it" in found
    assert '`{models: {"*": {upstream: b}}, operations: {embeddings: {upstream: OTHER}}}`' in found


def test_the_action_for_an_unknown_name_is_that_of_the_message():
    for route, setting in (
        ("models.a b.upstream", "models.a b.name"),
        ("models.a*.targets", "models.a*.targets[].name"),
    ):
        message = f"No. {model_hint('a b', 'chat', 404, None, 'unknown model', 'm-9', route)}"
        found = action("model_not_found", "upstream:chat", model="a b", message=message)
        assert (f"set `{setting}` to its name for it" in found, "correct" in found) == (True, False)
    message = f"No. {model_hint('a', 'chat', 404, None, 'unknown model', 'a')}"
    found = action("model_not_found", "upstream:chat", model="a", message=message)
    named = "or set `models.a.name` to its name for it. `gatepass doctor a` lists its names."
    assert found.endswith(f"correct the name in the client, {named}")
    other = action("model_not_found", "upstream:chat", model="a", message="The model a is not here.")
    assert "correct `models.a.upstream`" in other


ISSUED = "by one that this upstream issued and that has not been revoked, then"
COMPARED = "Compare these settings with what {} upstream requires: "


def replace_key(place: str, then: str = "run `gatepass reload`") -> str:
    return f"Replace the key in {place} {ISSUED} {then}."


@pytest.mark.parametrize(
    ("advice", "credential", "age_s", "reason", "case", "action"),
    [
        (
            replace_key("credentials.corp.key"),
            *("corp", None, "its issuer returned the same token again"),
            *("static_key", replace_key("`credentials.corp.key`")),
        ),
        (
            replace_key("upstreams.b.headers.api-key"),
            *(None, None, None),
            *("header_key", replace_key("`upstreams.b.headers.api-key`")),
        ),
        (
            replace_key("the environment variable LLM_KEY", "restart gatepass"),
            *("corp", None, "its issuer returned the same token again"),
            *("variable_key", replace_key("the environment variable `LLM_KEY`", "restart gatepass")),
        ),
        (
            "gatepass has no credential for it. Set upstreams.b.credential.",
            *(None, None, None),
            *("no_credential", "Set `upstreams.b.credential`."),
        ),
        (
            f"{COMPARED.format('this')}credentials.corp.scope, upstreams.b.token_placement. `gatepass token corp` x",
            *("corp", 3.0, None),
            *(
                "new_token",
                f"{COMPARED.format('the')}`credentials.corp.scope`, `upstreams.b.token_placement`. `gatepass",
            ),
        ),
        ("Compare these settings with", "corp", 3.0, "it was not renewed", "", None),
    ],
)
@pytest.mark.parametrize(("code", "status"), [("upstream_auth", 401), ("denied", 403)])
def test_the_action_for_a_rejected_credential_depends_on_what_was_sent(
    code: str,
    status: int,
    advice: str,
    credential: str | None,
    age_s: float | None,
    reason: str | None,
    case: str,
    action: str | None,
):
    hint = token_hint(advice, credential, age_s, reason, "")
    if action is None:
        action = "Correct what the message names." if code == "upstream_auth" else "Follow the upstream's message."
    # the upstream may be another gatepass, whose own words come first
    text = (
        f"bad token. Tried once, with the only key of the credential 'inner'. {replace_key('credentials.inner.token')}"
    )
    record = access(code=code, hop="upstream:b", status=status, outcome="error", model="m", reason=f"{text} {hint}")
    error = story_of(request(record), 110.0, 0.0, str)["error"]
    assert error["case"] == case
    assert error["action"].startswith(action)


def test_the_action_for_a_rejected_key_of_an_mcp_server_names_its_settings():
    hint = replace_key("mcp.search.headers.X-Token")
    assert case_of("upstream_auth", "upstream:mcp/search", 401, hint) == "header_key"
    found = action("upstream_auth", "upstream:mcp/search", "header_key", message=hint)
    assert found == replace_key("`mcp.search.headers.X-Token`")


@pytest.mark.parametrize(
    ("status", "rest", "advice"),
    [
        (504, 'titled "504 Gateway Time-out".', "A proxy in front of the upstream answered, because it stopped"),
        (502, 'titled "502 Bad Gateway".', "A proxy in front of the upstream answered, because the upstream behind"),
        (503, "instead of JSON, which is invalid as a reply: a login page", "Check `credential` and `upstreams.b."),
        (403, 'titled "403 Forbidden".', "Check `credential` and `upstreams.b.base_url`."),
    ],
)
def test_the_action_for_the_page_of_a_proxy_concerns_the_proxy(status: int, rest: str, advice: str):
    reason = f'The upstream "b" (llm) answered {status} with an HTML page {rest}'
    record = access(code="upstream_html", hop="upstream:b", status=status, outcome="error", model="m", reason=reason)
    assert story_of(request(record), 110.0, 0.0, str)["error"]["action"].startswith(advice)


LARGE = "The upstream sent an event that is larger than"


@pytest.mark.parametrize(
    ("code", "reason", "case", "advice"),
    [
        ("1261", "Prompt exceeds max length", "too_long", "Shorten the prompt or the history,"),
        ("context_length_exceeded", "no", "too_long", "Shorten the prompt or the history,"),
        ("400", "This model's maximum context length is 4096 tokens.", "too_long", "Shorten the prompt or the"),
        ("400", "The name of a tool exceeds the maximum length of 64.", "", "Follow the upstream's message."),
        ("upstream_invalid", f"{LARGE} 1 MiB, which applies because `line_bytes`", "line_bytes", "If the client reads"),
        ("upstream_invalid", f"{LARGE} limits.event_bytes, or", "too_large", "Request less in one answer. If the"),
        ("upstream_invalid", "The upstream sent an event that is not JSON.", "", "Check that `upstreams.b.base_url`"),
    ],
)
def test_the_action_depends_on_what_was_too_long(code: str, reason: str, case: str, advice: str):
    record = access(code=code, hop="upstream:b", status=400, outcome="error", model="m", reason=reason)
    error = story_of(request(record), 110.0, 0.0, str)["error"]
    assert error["case"] == case
    assert error["action"].startswith(advice)


@pytest.mark.parametrize(
    ("code", "reason", "case", "advice"),
    [
        ("102", "Not Found. The upstream has no such path: it does not", "mcp_no_path", "Check `mcp.search.url`."),
        ("upstream_invalid", "not JSON", "mcp_invalid", "`mcp.search.url` is the endpoint of an MCP server."),
    ],
)
def test_the_action_for_an_mcp_server_names_its_setting(code: str, reason: str, case: str, advice: str):
    record = access(code=code, hop="upstream:mcp/search", status=404, outcome="error", operation="mcp", reason=reason)
    error = story_of(request(record), 110.0, 0.0, str)["error"]
    assert error["case"] == case
    assert error["action"].endswith(advice)
    assert error["names"]["mcp.NAME.url"] == "mcp.search.url"


@pytest.mark.parametrize(
    ("operation", "test"), [("responses", "--as codex"), ("messages", "--operation messages --call")]
)
def test_the_action_for_an_api_that_is_missing_names_the_setting_that_serves_it_by_chats(operation: str, test: str):
    reason = "Not Found. The upstream has no such path: it does not support this operation."
    record = access(
        code="upstream_error",
        hop="upstream:b",
        status=404,
        outcome="error",
        model="m",
        operation=operation,
        reason=reason,
    )
    error = story_of(request(record), 110.0, 0.0, str)["error"]
    assert (error["case"], error["test"]) == ("no_api", f"gatepass doctor m {test}")
    chats, other = error["action"].split("Otherwise ")
    assert chats.startswith("If the upstream has chat completions, set `upstreams.b.protocols: [chat]`")
    assert other.startswith(f"set `operations.{operation}.upstream` to an upstream that has it")
    assert f"operations: {{{operation}: {{upstream: OTHER}}}}" in other
    record.adapted = (f"translate={operation}", "untranslated=web_search")
    error = story_of(request(record), 110.0, 0.0, str)["error"]
    assert error["case"] == "no_chat"
    assert error["action"].startswith("Correct `upstreams.b.base_url`: ")
    assert not any(setting in error["action"] for setting in ("protocols", "operations"))


def test_the_action_for_an_image_that_ragflow_does_not_read_is_that_of_the_message():
    body = b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,"}}]}]}'
    with pytest.raises(InvalidImage) as caught:
        RagflowBody().apply(a_call(body), Target("rag", "chat"))
    record = access(code="invalid_image", hop="client", status=400, outcome="error", reason=caught.value.message)
    error = story_of(request(record), 110.0, 0.0, str)["error"]
    assert (error["case"], error["action"][:15]) == ("ragflow_images", "Send only text,")
    record.reason = "images[0] is empty"
    error = story_of(request(record), 110.0, 0.0, str)["error"]
    assert (error["case"], error["action"][:11]) == ("", "Send a URL,")


@pytest.mark.parametrize(("member", "value"), [("upstream", "OTHER"), ("targets", "[{upstream: OTHER}]")])
def test_the_action_for_a_path_that_is_missing_names_the_route_of_the_model(member: str, value: str):
    message = f"Not Found. The upstream has no such path: it (models.bge.{member}) does not support this operation."
    found = action("102", "upstream:b", "no_path", operation="rerank", model="bge", message=message)
    assert f"Set `models.bge.{member}` to an upstream that has it, as in `{{models: {{bge: {{{member}: {value}" in found
    assert "operations" not in found.replace("operation fails", "")


def test_the_action_for_an_upstreams_error_names_the_route_of_the_model():
    listed = "If the model is listed under `models`, correct `models.bge.upstream`."
    unknown = action("102", "upstream:b", operation="chat", model="bge", message="LLM(bge) not found")
    assert unknown.endswith(f" to its name for it. `gatepass doctor bge` lists its names. {listed}")
    azure = "The API deployment for this resource does not exist."
    assert action("404", "upstream:b", operation="chat", model="bge", message=azure) == unknown
    other = action("102", "upstream:b", operation="chat", model="bge", message="question is required")
    assert other == "Follow the upstream's message."
    assert action("102", "upstream:b", operation="files") == "Follow the upstream's message."
    documented = action_of("102", "upstream:b", "no_path", {"models.NAME.upstream": "models.bge.upstream"})
    assert documented.endswith(f"then run `gatepass reload`. {listed}")


@pytest.mark.parametrize("route", ["", " (models.bge.upstream)"])
def test_the_action_for_a_path_that_is_missing_names_one_route(route: str):
    message = f"Not Found. The upstream has no such path: it{route} does not support this operation."
    found = action("102", "upstream:b", "no_path", operation="rerank", model="bge", message=message)
    assert found.endswith("then run `gatepass reload`.")


@pytest.mark.parametrize(
    ("code", "hop", "message", "setting"),
    [
        ("total", "upstream:b", "not complete after 2 s ({setting}).", "upstreams.first.timeouts.total_s"),
        ("first_byte", "upstream:b", "h sent no reply within 0.2 s ({setting}). A", "models.m.timeouts.first_byte_s"),
        ("first_byte", "upstream:b", "no reply within 2 s ({setting}). A", "models.a b (c).timeouts.first_byte_s"),
        ("idle", "upstream:b", "longer than 2 s ({setting}).", "operations.chat.timeouts.idle_s"),
        ("idle", "upstream:mcp/search", "longer than 2 s ({setting}).", "mcp.search.timeouts.idle_s"),
    ],
)
def test_the_action_for_a_timeout_names_the_setting_of_the_message(code: str, hop: str, message: str, setting: str):
    message = message.format(setting=setting)
    found = action(f"upstream_timeout_{code}", hop, message=message, model="m", operation="chat")
    test = "gatepass doctor --mcp search" if "mcp" in hop else "gatepass doctor m --call"
    if code == "idle":
        assert found == (
            f"Check the upstream first. `{test}` tests a small call. A model that pauses needs a higher `{setting}`."
        )
        return
    assert found == (
        f"Raise `{setting}`, or check the upstream. Reasoning and long prompts take longer. `{test}`"
        " tests a small call."
    )


@pytest.mark.parametrize(
    ("advice", "settings"),
    [
        (
            "Check credentials.corp.client_id, credentials.corp.client_secret.",
            "`credentials.corp.client_id`, `credentials.corp.client_secret`",
        ),
        ("Check credentials.corp.scope.", "`credentials.corp.scope`"),
        ("Check the client and the secret in credentials.corp.", "`credentials.corp`"),
        ("", None),
    ],
)
def test_the_action_for_a_refused_client_begins_with_the_settings(advice: str, settings: str | None):
    message = f"no token: h answered 401: Check that. X; next attempt in 9 s; a hint. {advice} {AFTER_REPAIR}"
    record = access(code="token_unavailable", hop="credential:corp", status=503, outcome="error", reason=message)
    error = story_of(request(record), 110.0, 0.0, str)["error"]
    assert error["case"] == ("refused" if settings else "")
    test = "`gatepass token corp`"
    assert error["action"].startswith(f"Correct {settings}. A `file:` is" if settings else f"Run {test}")
    assert not settings or error["action"].endswith(f"a restart. Then {test} tests the credential alone.")


@pytest.mark.parametrize(("model", "test"), [("m", " `gatepass doctor m --call` tests a small call."), ("", "")])
def test_the_action_for_a_failure_of_the_upstream_names_the_test(model: str, test: str):
    assert action("upstream_error", "upstream:b", "5xx", model=model).endswith(f"to the owner of the upstream.{test}")
    assert action("upstream_closed", "upstream:b", model=model).endswith(f"the timeouts of proxies.{test}")


def test_the_action_for_a_slow_connection_names_the_setting_of_the_message():
    message = "No connection to h within 5 s (models.m.timeouts.connect_s). Check the host"
    found = action("upstream_timeout_connect", "upstream:b", message=message, model="m", operation="chat")
    assert found.endswith("If the network is slow, raise `models.m.timeouts.connect_s`.")


def test_the_action_names_the_parts_of_this_request():
    assert action("token_unavailable", "credential:corp", model="m").startswith(
        "Run `gatepass token corp`, which tests"
    )
    assert "`upstreams.chat.base_url`" in action("upstream_dns", "upstream:chat")
    assert "`gatepass route 'a b'`" in action("model_not_found", "client", model="a b")
    assert "Correct `mcp.search.url`" in action("upstream_dns", "upstream:mcp/search")
    assert "`gatepass doctor --mcp search` makes" in action("upstream_auth", "upstream:mcp/search")
    assert "`gatepass token corp`" in action("upstream_auth", "upstream:chat", "new_token", credential="corp")
    down = (
        "No connection to the proxy p:3128 (refused). Check the host and port in network.proxy, and whether it is up."
    )
    assert action("upstream_connect", "upstream:chat", message=down).startswith(
        "Check `network.proxy`, and whether that server is up."
    )
    refused = "No connection to 127.0.0.1:9 (refused). Check mcp.search.url, and whether it needs network.proxy."
    start = "Check `mcp.search.url`, and whether that server is up."
    assert action("upstream_connect", "upstream:mcp/search", message=refused) == start
    denied = "The proxy p:3128 answered 407. Check network.proxy_auth."
    assert "Check `network.proxy_auth`" in action("upstream_connect", "upstream:chat", message=denied)
    refusing = "The proxy in front of llm.example refuses (403 Forbidden from p:1). Ask the owner to allow it, or "
    told = action(
        "upstream_connect", "upstream:chat", "proxy_refuses", message=f"{refusing}add it to network.no_proxy."
    )
    assert told.endswith("allow this host and port, or avoid the proxy with `network.no_proxy: [HOST]`.")
    own = f"{refusing}set upstreams.chat.network.proxy to none."
    assert action("upstream_connect", "upstream:chat", "proxy_refuses", message=own).endswith(
        "avoid the proxy with `upstreams.chat.network.proxy: none`."
    )
    direct = "Check the host in upstreams.chat.base_url, the DNS, and whether this network needs network.proxy."
    assert "Correct `upstreams.chat.base_url`," in action("upstream_dns", "upstream:chat", message=direct)
    for own in ("102", "model_not_found", "invalid_api_key", "upstream_timeout_9"):
        found = action(own, "upstream:chat", model="m", message="no such model")
        assert found.startswith("Follow the upstream's message. If it does not")
    found = action("upstream_timeout_connect", "upstream:chat", model="m")
    assert found.startswith("Check the host and port in `upstreams.chat.base_url`")
    assert "`network.proxy`" in found
