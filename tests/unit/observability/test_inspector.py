"""What the inspector keeps of requests, and how it renders it."""

from typing import Any

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
from gatepass.observability.story import test_command as command_of
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


REJECTED: dict[str, Any] = {"outcome": "token_rejected", "head_s": 1.0, "duration_s": 1.0005}


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


def test_a_story_has_the_times_of_the_connection_and_the_targets_that_were_left():
    record = AttemptRecord("one", "chat", "m", "a", began_s=100.0, outcome="complete")
    record.pool_wait_s, record.connect_s, record.head_s = 0.25, 0.5, 3.5
    record.not_tried = (NotTried("a", "m", "waits"), NotTried("b", "m", "ejected"), NotTried("c", "m2", "full"))
    story = story_of(request(access(), record), 110.0, 0.0, str)
    attempt = story["attempts"][0]
    assert [attempt[name] for name in ("pool_wait_s", "connect_s", "head_s")] == [0.25, 0.5, 3.5]
    assert story["not_tried"] == [
        {"upstream": "b", "model": "m", "state": "ejected"},
        {"upstream": "c", "model": "m2", "state": "full"},
    ]


@pytest.mark.parametrize(
    ("token", "fields", "shown", "added_s"),
    [
        (None, {}, None, 20.0),
        (SentToken("corp", 103.0, 20.0, 240.0), {"token_wait_s": 2.0}, (83.0, 157.0, 2.0, 0.0), 18.0),
        (SentToken("corp"), {"token_wait_s": 1.0}, (None, None, 1.0, 0.0), 19.0),
        (SentToken("fixed", 103.0, 20.0), {}, (None, None, 0.0, 0.0), 20.0),
        # before a request is sent, and after its rejection: gatepass added neither
        (SentToken("corp"), {**REJECTED, "token_wait_s": 10.5, "duration_s": 11.0}, (None, None, 0.5, 10.0), 9.5),
        # a key that does not expire waited for no new one
        (SentToken("fixed", 100.0, 20.0), {**REJECTED, "token_wait_s": 0.0005}, (None, None, 0.0, 0.0), 19.9995),
    ],
)
def test_a_story_has_what_is_known_of_a_token_and_the_time_of_its_credential_is_not_added(
    token: SentToken | None, fields: dict[str, Any], shown: tuple[float | None, ...] | None, added_s: float
):
    record = AttemptRecord("one", "chat", "m", "a", **{"outcome": "complete", "token": token, **fields})
    story = story_of(replace(request(access(), record), added_s=20.0), 110.0, 0.0, str)
    known = story["attempts"][0]["token"]
    assert (known and tuple(known[name] for name in ("age_s", "left_s", "wait_s", "renewal_s"))) == shown
    assert (known and known["credential"], story["timings"]["added_s"]) == (token and token.credential, added_s)


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


def test_the_command_that_tests_a_hop_names_it_and_sends_the_operation_of_the_request():
    for hop, operation, command in (
        ("upstream:b", "chat", "gatepass doctor bge --call"),
        ("upstream:b", "rerank", "gatepass doctor bge --operation rerank --call"),
        ("upstream:b", "responses", "gatepass doctor bge --operation responses --call"),
        ("upstream:b", "speech", "gatepass doctor bge"),  # doctor has no call for it
        ("upstream:mcp/search", "mcp", "gatepass doctor"),
        ("credential:corp", "chat", "gatepass token corp"),
        ("client", "chat", ""),
    ):
        assert command_of(hop, "bge", operation) == command
    assert {"chat", *CALL_OPERATIONS} == set(options.CALL_OPERATIONS)


def explained(code: str, hop: str, status: int, reason: str, operation: str = "chat", **fields: Any) -> dict[str, Any]:
    record = access(code=code, hop=hop, status=status, outcome="error", reason=reason, operation=operation, **fields)
    found: dict[str, Any] = story_of(request(record), 110.0, 0.0, str)["error"]
    return found


AT_B, AT_MCP = "upstream:b", "upstream:mcp/search"
NO_PATH = "Not Found. The upstream has no such path: it does not support this operation."
PAGE = 'The upstream "b" (llm) answered with an HTML page'
LARGE = "The upstream sent an event that is larger than"
ANSWERED = 'The upstream "b" (llm) answered 400 Bad Request with'


@pytest.mark.parametrize(
    ("code", "hop", "status", "reason", "case", "advice"),
    [
        ("102", AT_B, 404, NO_PATH, "no_path", "Set `operations.chat.upstream` to an upstream that has it"),
        ("102", AT_B, 429, "slow down", "429", "Wait, or ask the owner of the upstream"),
        ("102", AT_B, 404, "No such model", "", "Follow the upstream's message. If it does not know the model"),
        ("102", AT_B, 400, "out of credit", "", "Follow the upstream's message."),
        ("102", AT_B, 500, "out of memory", "5xx", "If its message names nothing"),
        ("102", AT_B, 500, "unknown model m", "", "Follow the upstream's message. If it does not know the model"),
        ("1261", AT_B, 400, "Prompt exceeds max length", "too_long", "Shorten the prompt or the history,"),
        ("context_length_exceeded", AT_B, 400, "no", "too_long", "Shorten the prompt or the history,"),
        ("400", AT_B, 400, "The name of a tool exceeds the maximum length of 64.", "", "Follow the upstream's"),
        (
            "upstream_html",
            AT_B,
            504,
            f"{PAGE} titled",
            "page_504",
            "Raise the timeout of the proxy in front of",
        ),
        (
            "upstream_html",
            AT_B,
            502,
            f"{PAGE} titled",
            "page_5xx",
            "Retry later, or ask the owner",
        ),
        ("upstream_html", AT_B, 503, f"{PAGE} instead of JSON", "", "Check `credential` and `upstreams.b.base_url`."),
        ("upstream_html", AT_B, 403, f"{PAGE} titled", "", "Check `credential` and `upstreams.b.base_url`."),
        ("upstream_invalid", AT_B, 400, f"{LARGE} long lines", "long_lines", "If the client reads"),
        ("upstream_invalid", AT_B, 400, f"{LARGE} limits.event_bytes, or", "too_large", "Request less in one answer."),
        ("upstream_invalid", AT_B, 400, "not JSON.", "", "Check that `upstreams.b.base_url` is an OpenAI API"),
        ("upstream_invalid", AT_MCP, 502, "initialize (HTTP 404)", "mcp_invalid", "Check that `mcp.search.url` is"),
        ("upstream_invalid", AT_MCP, 502, "or too large a one", "mcp_invalid", "If the message names a limit,"),
        ("102", AT_B, 400, f"{ANSWERED} a body without a reason: {{}}", "", "Read the upstream's log: its answer has"),
        ("102", AT_B, 400, f"{ANSWERED} an empty body.", "", "Read the upstream's log: its answer has no reason."),
        ("102", AT_MCP, 404, NO_PATH, "mcp_no_path", "Check `mcp.search.url`."),
        ("upstream_dns", AT_MCP, 502, "no", "", "Correct `mcp.search.url`"),
        ("upstream_auth", AT_MCP, 401, "no", "", "Correct what the message names. `gatepass doctor` "),
        ("token_unavailable", "credential:corp", 503, "no", "", "Run `gatepass token corp`, which tests"),
        ("upstream_timeout_connect", AT_B, 504, "late", "", "Check the host and port in `upstreams.b.base_url`"),
        ("upstream_timeout_9", AT_B, 400, "late", "", "Follow the upstream's message."),
    ],
)
def test_the_action_of_an_error_follows_from_its_code_status_and_text(code, hop, status, reason, case, advice):
    error = explained(code, hop, status, reason)
    assert (error["case"], error["action"][: len(advice)]) == (case, advice)


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
            *("corp", 3.0, None, "new_token"),
            f"{COMPARED.format('the')}`credentials.corp.scope`, `upstreams.b.token_placement`. `gatepass token corp`",
        ),
        ("Compare these settings with", "corp", 3.0, "it was not renewed", "", None),
    ],
)
def test_the_action_for_a_rejected_credential_depends_on_what_was_sent(advice, credential, age_s, reason, case, action):
    hint = token_hint(advice, credential, age_s, reason, "")
    # the upstream may be another gatepass, whose own words come first
    inner = (
        f"bad token. Tried once, with the only key of the credential 'inner'. {replace_key('credentials.inner.token')}"
    )
    for code, status, otherwise in (
        ("upstream_auth", 401, "Correct what the message names."),
        ("denied", 403, "Follow the upstream's message."),
    ):
        error = explained(code, AT_B, status, f"{inner} {hint}")
        assert error["case"] == case
        assert error["action"].startswith(action or otherwise)


@pytest.mark.parametrize(
    ("operation", "test"), [("responses", "--operation responses --call"), ("messages", "--operation messages --call")]
)
def test_the_action_for_an_api_that_is_missing_names_the_setting_that_serves_it_by_chats(operation: str, test: str):
    error = explained("upstream_error", AT_B, 404, NO_PATH, operation)
    assert (error["case"], error["test"]) == ("no_api", f"gatepass doctor m {test}")
    chats, other = error["action"].split("Otherwise ")
    assert chats.startswith("If the upstream has chat completions, set `upstreams.b.protocols: [chat]`")
    assert other.startswith(f"set `operations.{operation}.upstream` to an upstream that has it")
    assert f"operations: {{{operation}: {{upstream: OTHER}}}}" in other
    adapted = (f"translate={operation}", "untranslated=web_search")
    error = explained("upstream_error", AT_B, 404, NO_PATH, operation, adapted=adapted)
    assert (error["case"], error["action"][:35]) == ("no_chat", "Correct `upstreams.b.base_url`: gat")
    assert not any(setting in error["action"] for setting in ("protocols", "operations"))


def test_the_action_for_an_image_that_ragflow_does_not_read_is_that_of_the_message():
    body = b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,"}}]}]}'
    with pytest.raises(InvalidImage) as caught:
        RagflowBody().apply(a_call(body), Target("rag", "chat"))
    for reason, case, action in (
        (caught.value.message, "ragflow_images", "Send only text,"),
        ("images[0] is empty", "", "Send a URL,"),
    ):
        error = explained("invalid_image", "client", 400, reason)
        assert (error["case"], error["action"][: len(action)]) == (case, action)


def action(code: str, hop: str, case: str = "", *, message: str = "", **known: str) -> str:
    operation, model, credential = (known.get(name, "") for name in ("operation", "model", "credential"))
    names = names_of(hop, operation, model, credential, message)
    return action_of(code, hop, case, names)


def test_the_action_for_a_path_that_is_missing_names_the_operation_or_the_route_of_the_model():
    found = action("102", AT_B, "no_path", operation="embeddings", model="bge")
    assert "set `operations.embeddings.upstream` to an upstream that has it" in found
    assert '`{models: {"*": {upstream: b}}, operations: {embeddings: {upstream: OTHER}}}`' in found
    for member, value in (("upstream", "OTHER"), ("targets", "[{upstream: OTHER}]")):
        message = NO_PATH.replace("it does", f"it (models.bge.{member}) does")
        found = action("102", AT_B, "no_path", operation="rerank", model="bge", message=message)
        assert (
            f"Set `models.bge.{member}` to an upstream that has it, as in `{{models: {{bge: {{{member}: {value}"
            in found
        )
        assert "operations" not in found.replace("operation fails", "")
        assert found.endswith("then run `gatepass reload`.")


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


def test_the_action_for_an_upstreams_error_names_the_route_of_the_model():
    listed = "If the model is listed under `models`, correct `models.bge.upstream`."
    unknown = action("102", AT_B, operation="chat", model="bge", message="LLM(bge) not found")
    assert unknown.endswith(f" to its name for it. `gatepass doctor bge` lists its names. {listed}")
    azure = "The API deployment for this resource does not exist."
    assert action("404", AT_B, operation="chat", model="bge", message=azure) == unknown
    other = action("102", AT_B, operation="chat", model="bge", message="question is required")
    assert other == action("102", AT_B, operation="files") == "Follow the upstream's message."


@pytest.mark.parametrize(
    ("message", "is_unknown"),
    [
        ("This model does not support images", False),
        ("The model bge doesn't support image input.", False),
        ("Unsupported parameter: 'temperature' is not supported with this model.", False),
        ("max_tokens is too large. This model supports at most 4096 completion tokens", False),
        ("bge cannot process audio", False),
        ("该模型不支持图片输入", False),
        ("当前模型 bge 不支持工具调用", False),
        ("We do not support the model bge", True),
        ("Model bge is not supported", True),
        ("不支持该模型：bge", True),
        ("no permission for this model", True),
        ("当前分组下对于模型 bge 无可用渠道", True),
    ],
)
def test_an_ability_that_a_model_lacks_is_no_unknown_name(message: str, is_unknown: bool):
    found = action("upstream_error", AT_B, operation="chat", model="bge", message=message)
    assert ("correct the name" in found, "models.bge" in found) == (is_unknown, is_unknown)


@pytest.mark.parametrize(
    ("code", "hop", "message", "setting"),
    [
        ("first_byte", AT_B, "h sent no reply within 0.2 s ({}). A", "models.m.timeouts.first_byte_s"),
        ("total", AT_B, "not complete after 2 s ({}).", "models.a b (c).timeouts.total_s"),
        ("idle", AT_MCP, "longer than 2 s ({}).", "mcp.search.timeouts.idle_s"),
        ("connect", AT_B, "No connection within 5 s ({}). Check the host", "models.m.timeouts.connect_s"),
    ],
)
def test_the_action_for_a_timeout_names_the_setting_of_the_message(code: str, hop: str, message: str, setting: str):
    found = action(f"upstream_timeout_{code}", hop, message=message.format(setting), model="m", operation="chat")
    assert f"aise `{setting}`" in found or f"needs a higher `{setting}`" in found
    assert "is set under" not in found
    if code != "connect":
        assert f"`gatepass doctor{'' if hop == AT_MCP else ' m --call'}` tests a small call." in found


@pytest.mark.parametrize(
    ("advice", "settings"),
    [
        (
            "Check credentials.corp.client_id, credentials.corp.client_secret.",
            "`credentials.corp.client_id`, `credentials.corp.client_secret`",
        ),
        ("Check the client and the secret in credentials.corp.", "`credentials.corp`"),
        ("", None),
    ],
)
def test_the_action_for_a_refused_client_begins_with_the_settings(advice: str, settings: str | None):
    message = f"no token: h answered 401: Check that. X; next attempt in 9 s; a hint. {advice} {AFTER_REPAIR}"
    error = explained("token_unavailable", "credential:corp", 503, message)
    assert error["case"] == ("refused" if settings else "")
    test = "`gatepass token corp`"
    assert error["action"].startswith(f"Correct {settings}. A `file:` is" if settings else f"Run {test}")
    assert not settings or error["action"].endswith(f"a restart. Then {test} tests the credential alone.")


def test_the_action_names_the_test_only_if_the_model_is_known():
    for model, test in (("m", " `gatepass doctor m --call` tests a small call."), ("", "")):
        assert action("upstream_error", AT_B, "5xx", model=model).endswith(f"to the owner of the upstream.{test}")
        assert action("upstream_closed", AT_B, model=model).endswith(f"the timeouts of proxies.{test}")
    assert "`gatepass check --route 'a b'`" in action("model_not_found", "client", model="a b")


@pytest.mark.parametrize(
    ("detail", "has_no_reply"),
    [
        ("without an answer", True),
        ("[Errno 104] Connection reset by peer", True),
        ("in the middle of its reply", False),
    ],
)
def test_a_connection_that_closed_without_a_reply_may_be_plain_http_at_a_tls_port(detail: str, has_no_reply: bool):
    message = f"h closed the connection before its reply was complete ({detail}); whether it did the work is unknown."
    setting = "If `upstreams.b.base_url` begins with http://, the port may speak TLS: begin it with https:// then."
    assert (setting in action("upstream_closed", AT_B, message=message)) is has_no_reply


UNREACHED = (
    "The proxy in front of llm.example could not reach the host (504 Timeout from p:1). Check the host in"
    " upstreams.b.base_url, whether it is up and the proxy can reach it, or "
)
REFUSES = "The proxy in front of llm.example refuses (403 Forbidden from p:1). Ask the owner to allow it, or "


@pytest.mark.parametrize(
    ("code", "case", "message", "named"),
    [
        ("upstream_connect", "", "No connection. Check the port in network.proxy.", "network.proxy"),
        ("upstream_connect", "", "Check upstreams.b.base_url, or set network.proxy.", "upstreams.b.base_url"),
        ("upstream_connect", "", "The proxy p:3128 answered 407. Check network.proxy_auth.", "network.proxy_auth"),
        ("upstream_connect", "", f"{UNREACHED}add it to network.no_proxy.", "upstreams.b.base_url"),
        ("upstream_connect", "proxy_refuses", f"{REFUSES}add it to network.no_proxy.", "network.no_proxy: [HOST]"),
        (
            *("upstream_connect", "proxy_refuses", f"{REFUSES}set upstreams.b.network.proxy to none."),
            "upstreams.b.network.proxy: none",
        ),
        ("upstream_tls", "", "Add its CA to upstreams.b.network.ca_file.", "upstreams.b.network.ca_file"),
    ],
)
def test_the_action_blames_the_proxy_or_the_url_as_the_message_does(code: str, case: str, message: str, named: str):
    assert case_of(code, AT_B, 502, message) == case
    assert f"`{named}`" in action(code, AT_B, case, message=message)
