import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from gatepass.call import Inbound
from gatepass.errors import UpstreamClosed
from gatepass.observe.access_line import PATH_LOG_CHARS, AccessLine, rounded
from gatepass.observe.exchange import Exchange
from gatepass.relay.usage import Usage

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


def test_every_field_tells_what_its_name_says():
    one = Exchange(
        Inbound("id-1", "POST", "/v1/x", BEARER, "127.0.0.1", 1.0),
        operation="chat",
        caller="load",
        model="asked",
        upstream="mock",
        upstream_model="deployed",
        stream=True,
        status=502,
        error=UpstreamClosed("broke off", upstream="mock"),
        attempts=2,
        renewed=True,
        repeated_stale=True,
        adapted=("done=1",),
        learned=("done=1",),
        tried=("vain=1",),
        failover=("first=token_unavailable",),
        ended_s=3.00001,
        head_s=0.5,
        first_byte_s=1.00009,
        token_wait_s=0.25,
        bytes_in=10,
        bytes_out=20,
        events=7,
        usage=Usage(prompt_tokens=0, total_tokens=5),
        upstream_request_id="req-1",
    )
    said = line(one)
    assert list(said) == list(AccessLine.__struct_fields__)
    assert said == {
        "id": "id-1",
        "method": "POST",
        "path": "/v1/x",
        "operation": "chat",
        "caller": "load",
        "model": "asked",
        "upstream": "mock",
        "upstream_model": "deployed",
        "stream": True,
        "status": 502,
        "outcome": "error",
        "code": "upstream_closed",
        "hop": "upstream:mock",
        "reason": "broke off",
        "attempts": 2,
        "renewed": True,
        "repeated_stale": True,
        "adapted": ["done=1"],
        "tried": ["vain=1"],
        "failover": ["first=token_unavailable"],
        "duration_s": 3.0,
        "ttft_s": 1.0001,
        "token_wait_s": 0.25,
        "bytes_in": 10,
        "bytes_out": 20,
        "events": 7,
        "usage": {"prompt_tokens": 0, "total_tokens": 5},
        "upstream_request_id": "req-1",
    }


def test_a_wait_too_short_to_tell_is_left_out_and_so_is_none():
    one = Exchange(Inbound("id-1", "POST", "/v1/x", BEARER, "127.0.0.1", 1.0), token_wait_s=0.00001, ended_s=0.00001)
    said = line(one)
    assert "token_wait_s" not in said
    assert said["duration_s"] == 0.0


halves = st.integers(0, 10**9).map(lambda number: (number + 0.5) / 10_000)


@given(st.one_of(st.floats(0, 1e6), halves, halves.map(lambda half: half * (1 - 2**-53)), st.floats(0, 0.001)))
@example(0.00005)
@example(0.00015)
@example(0.00025)
@example(2.00005)
@example(0.49999999999999994e-4)
def test_seconds_are_rounded_as_round_does_it(seconds):
    assert repr(rounded(seconds)) == repr(round(seconds, 4))
