"""The client's header fields that gatepass may send to an upstream."""

from hypothesis import given
from hypothesis import strategies as st

from gatepass.protocols.request import safe_headers

NAMES = st.sampled_from(
    [
        b"accept",
        b"x-tag",
        b"x_tag",
        b"host",
        b"connection",
        b"keep-alive",
        b"content-encoding",
        b"content-type",
        b"authorization",
        b"te",
    ]
)
VALUES = st.sampled_from(
    [b"", b"keep-alive", b"identity", b" Identity ", b"gzip", b"X-Tag, accept", b"close,content-type"]
)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6).map(tuple))
def test_single_pass_keeps_the_same_headers_as_three(headers):
    named = {word.strip().lower() for name, value in headers if name == b"connection" for word in value.split(b",")}
    gone = {b"host", b"connection", b"keep-alive", b"content-encoding", b"authorization", b"te", *named}
    kept = tuple(field for field in headers if field[0] not in gone and b"_" not in field[0])
    assert safe_headers(headers) == kept
