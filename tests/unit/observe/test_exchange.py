from gatepass.call import Inbound
from gatepass.errors import UpstreamClosed
from gatepass.observe.exchange import BODY_KEPT_CHARS, PATH_LOG_CHARS, Exchange


def exchange() -> Exchange:
    return Exchange(
        Inbound("id-1", "POST", "/v1/chat/completions", ((b"authorization", b"Bearer x"),), "127.0.0.1", 1.0)
    )


def test_the_access_line_holds_no_header_and_no_body():
    one = exchange()
    one.keeps_bodies = True
    one.keep_body("request", b"a prompt")
    assert "Bearer" not in str(one.fields())
    assert "prompt" not in str(one.fields())


def test_outcomes_come_from_a_closed_set():
    one = exchange()
    assert one.outcome == "ok"
    one.error = UpstreamClosed("broke off", upstream="chat")
    assert one.outcome == "error"
    assert (one.fields()["code"], one.fields()["hop"]) == ("upstream_closed", "upstream:chat")
    one.client_gone = True
    assert one.outcome == "client_gone"


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


def test_a_long_path_is_cut_in_the_access_line():
    one = Exchange(Inbound("id-1", "GET", "/" + "x" * 60_000, (), "127.0.0.1", 1.0))
    assert len(one.fields()["path"]) == PATH_LOG_CHARS
