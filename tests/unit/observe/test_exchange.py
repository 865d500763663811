from gatepass.call import Inbound
from gatepass.errors import UpstreamClosed
from gatepass.observe.exchange import BODY_KEPT_CHARS, IDS_LOG_CHARS, Exchange


def exchange() -> Exchange:
    return Exchange(
        Inbound("id-1", "POST", "/v1/chat/completions", ((b"authorization", b"Bearer x"),), "127.0.0.1", 1.0)
    )


def test_outcomes_come_from_a_closed_set():
    one = exchange()
    assert one.outcome() == "ok"
    one.error = UpstreamClosed("broke off", upstream="chat")
    assert one.outcome() == "error"
    one.client_gone = True
    assert one.outcome() == "client_gone"


def test_a_kept_body_is_cut():
    one = exchange()
    one.keeps_bodies = True
    for _ in range(BODY_KEPT_CHARS // 1_000 + 2):
        one.keep_body("reply", b"x" * 1_000)
    assert len(one.bodies["reply"]) == BODY_KEPT_CHARS


def test_no_body_is_kept_where_nobody_asked_for_it():
    one = exchange()
    one.keep_body("request", b"a prompt")
    assert one.bodies == {}


def test_what_many_shares_tell_is_bounded():
    one = exchange()
    one.keeps_bodies = True
    for number in range(1_000):
        share = one.share()
        share.upstream_request_id = f"req-{number:06}"
        share.keep_body("reply", b"x" * 1_000)
        one.take_back(share)
    assert (len(one.upstream_request_id or ""), len(one.bodies["reply"])) == (IDS_LOG_CHARS, BODY_KEPT_CHARS)


def test_a_share_that_told_nothing_takes_nothing_away():
    one = exchange()
    first = one.share()
    first.upstream_request_id, first.attempts = "req-1", 1
    one.take_back(first)
    one.take_back(one.share())
    assert (one.upstream_request_id, one.attempts, one.bodies) == ("req-1", 1, {})
