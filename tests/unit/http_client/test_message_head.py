import pytest

from gatepass.errors import Fault, TransportFault
from gatepass.http_client.message_head import (
    MOST_FIELDS,
    Destination,
    ProxyServer,
    destination_of,
    head_error,
    mended_head,
    request_head,
)
from gatepass.types import Headers, OutboundRequest


@pytest.mark.parametrize(
    ("url", "destination"),
    [
        ("http://h", Destination(False, "h", 80, b"h", b"/")),
        ("https://h.example/v1/x?y=%20&z", Destination(True, "h.example", 443, b"h.example", b"/v1/x?y=%20&z")),
        ("https://h:8443/", Destination(True, "h", 8443, b"h:8443", b"/")),
        ("http://h:80?x", Destination(False, "h", 80, b"h", b"/?x")),
        ("http://H.Example:443/A", Destination(False, "h.example", 443, b"h.example:443", b"/A")),
        ("http://[::1]:9/", Destination(False, "::1", 9, b"[::1]:9", b"/")),
        ("https://[::1]/#part", Destination(True, "::1", 443, b"[::1]", b"/")),
    ],
)
def test_url_has_a_destination(url: str, destination: Destination):
    assert destination_of(url) == destination


@pytest.mark.parametrize(
    "url", ["", "/v1", "h:80", "ftp://h/", "http://", "http:///x", "http://h/a b", "http://h/\r\nx", "http://h/é"]
)
def test_invalid_url_is_a_transport_fault(url: str):
    with pytest.raises(TransportFault) as caught:
        destination_of(url)
    assert (caught.value.kind, caught.value.sent) == (Fault.INVALID, False)


DESTINATION = destination_of("http://h/x")


def head(method: str = "POST", headers: Headers = (), body: bytes = b"") -> bytes:
    return request_head(OutboundRequest(method, "http://h/x", headers, body), DESTINATION)


def test_a_head_has_its_host_and_its_length():
    assert head(body=b"abc", headers=((b"a", b"b"), (b"a", b""))) == (
        b"POST /x HTTP/1.1\r\nhost: h\r\na: b\r\na: \r\ncontent-length: 3\r\n\r\n"
    )
    assert head("GET") == b"GET /x HTTP/1.1\r\nhost: h\r\n\r\n"
    assert head("PUT") == b"PUT /x HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n"
    assert head("DELETE", body=b"x") == b"DELETE /x HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\r\n"


def test_a_host_of_the_request_stands():
    assert head("GET", ((b"host", b"virtual"),)) == b"GET /x HTTP/1.1\r\nhost: virtual\r\n\r\n"


@pytest.mark.parametrize("bad", [b"\n", b"\r", b"\0", b"\r\n", b"\r\n\r\n"])
def test_no_field_ends_its_own_line(bad: bytes):
    for headers in (((b"a", b"b" + bad + b"c"),), ((b"a" + bad + b"b", b"c"),), ((b"a", bad),)):
        with pytest.raises(TransportFault) as caught:
            head(headers=headers)
        assert (caught.value.kind, caught.value.sent) == (Fault.INVALID, False)
    with pytest.raises(TransportFault):
        head("GET /y HTTP/1.1" + bad.decode() + "x: y")


@pytest.mark.parametrize("name", [b"content-length", b"transfer-encoding"])
def test_a_request_does_not_frame_its_own_body(name: bytes):
    with pytest.raises(TransportFault, match="contains content-length or transfer-encoding"):
        request_head(OutboundRequest("POST", "http://h/", ((name, b"1"),)), DESTINATION)


@pytest.mark.parametrize(
    ("headers", "fine"),
    [
        ((), True),
        (((b"transfer-encoding", b"chunked"),), True),
        (((b"transfer-encoding", b" Chunked "),), True),
        (((b"transfer-encoding", b"gzip, chunked"),), False),
        (((b"transfer-encoding", b"gzip"), (b"transfer-encoding", b"chunked")), False),
        (((b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")), False),
        (((b"a", b"b"),) * MOST_FIELDS, True),
        (((b"a", b"b"),) * (MOST_FIELDS + 1), False),
    ],
)
def test_a_head_of_two_meanings_is_objected_to(headers: Headers, fine: bool):
    assert (head_error(headers, dict(headers)) is None) == fine


PROXY = ProxyServer.of("http://proxy.example:3128", "user:pass word")


@pytest.mark.parametrize(
    ("url", "target", "host_and_port"),
    [
        ("http://h/x?y", b"http://h:80/x?y", b"h:80"),
        ("http://h:8080", b"http://h:8080/", b"h:8080"),
        ("http://[::1]/x#part", b"http://[::1]:80/x", b"[::1]:80"),
        ("https://h/x", b"/x", b"h:443"),
        ("https://[::1]:8443/x", b"/x", b"[::1]:8443"),
    ],
)
def test_proxy_receives_absolute_urls(url: str, target: bytes, host_and_port: bytes):
    destination = destination_of(url, PROXY)
    assert (destination.target, destination.host_and_port, destination.proxy) == (target, host_and_port, PROXY)


def test_a_proxys_credentials_are_in_no_repr():
    assert "dXNlcjpwYXNzIHdvcmQ" not in repr(destination_of("http://h/x", PROXY))


@pytest.mark.parametrize(("auth", "encoded"), [("user", b"dXNlcjo="), ("user:", b"dXNlcjo="), ("é:ü", b"w6k6w7w=")])
def test_any_user_and_password_can_be_shown(auth: str, encoded: bytes):
    assert ProxyServer.of("http://proxy.example", auth).authorization == b"Basic " + encoded


@pytest.mark.parametrize(
    ("received", "mended"),
    [
        (b"content-length: 9\r\nTransfer-Encoding: chunked", b"transfer-encoding: chunked"),
        (b"x-user: a\x01b\x7f\x00c", b"x-user: a b  c"),
        (b"x-user: a\r\n\t  b\r\n c\r\nx: y", b"x-user: a  b  c\r\nx: y"),
        (b"content-length: 4\r\ncontent-length: 4", b"content-length: 4"),
        (b"content-length: 4, 4", b"content-length: 4"),
        (b"x-user: caf\xe9", b"x-user: caf\xe9"),
    ],
)
def test_a_head_is_read_as_a_recipient_may(received: bytes, mended: bytes):
    rest = b"\r\n\r\n2\r\nhi\r\n"
    assert mended_head(b"HTTP/1.1 200 OK\r\n" + received + rest) == b"HTTP/1.1 200 OK\r\n" + mended + rest
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nx: \0\r\n\r\n" * 1500
    assert mended_head(interim + b"HTTP/1.1 200 OK\r\nx: a\x02" + rest) == b"HTTP/1.1 200 OK\r\nx: a" + rest
    assert mended_head(interim) == b"", "the head of the reply itself is to come"


@pytest.mark.parametrize(
    ("received", "named"),
    [
        (b"transfer-encoding : chunked", "'transfer-encoding '"),
        (b" x: folded before a field", "' x'"),
    ],
)
def test_a_head_that_cannot_be_read_names_its_header(received: bytes, named: str):
    with pytest.raises(ValueError, match=named):
        mended_head(b"HTTP/1.1 200 OK\r\n" + received + b"\r\n\r\n")
