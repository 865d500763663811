import msgspec

from gatepass.call import Inbound
from gatepass.errors import UpstreamClosed
from gatepass.observe.access_line import PATH_LOG_CHARS, AccessLine
from gatepass.observe.exchange import Exchange

BEARER = ((b"authorization", b"Bearer x"),)


def line(exchange: Exchange) -> dict[str, object]:
    said: dict[str, object] = msgspec.json.decode(msgspec.json.encode(AccessLine.of(exchange)))
    return said


def test_it_holds_no_header_and_no_body():
    one = Exchange(Inbound("id-1", "POST", "/v1/chat/completions", BEARER, "127.0.0.1", 1.0), keeps_bodies=True)
    one.keep_body("request", b"a prompt")
    assert "Bearer" not in str(line(one))
    assert "prompt" not in str(line(one))


def test_what_says_nothing_is_left_out_and_counts_never_are():
    one = Exchange(Inbound("id-1", "POST", "/v1/chat/completions", BEARER, "127.0.0.1", 1.0))
    assert line(one) == {
        "id": "id-1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "operation": "none",
        "outcome": "ok",
        "bytes_in": 0,
        "bytes_out": 0,
    }


def test_an_error_tells_its_code_its_hop_and_why():
    one = Exchange(Inbound("id-1", "POST", "/v1/chat/completions", (), "127.0.0.1", 1.0), status=200, stream=True)
    one.error, one.adapted, one.ended_s = UpstreamClosed("broke off", upstream="chat"), ("images=1",), 0.123456
    said = line(one)
    assert (said["outcome"], said["code"], said["hop"], said["reason"]) == (
        "error",
        "upstream_closed",
        "upstream:chat",
        "broke off",
    )
    assert (said["stream"], said["adapted"], said["duration_s"]) == (True, ["images=1"], 0.1235)


def test_a_long_path_is_cut():
    one = Exchange(Inbound("id-1", "GET", "/" + "x" * 60_000, (), "127.0.0.1", 1.0))
    assert len(str(line(one)["path"])) == PATH_LOG_CHARS
