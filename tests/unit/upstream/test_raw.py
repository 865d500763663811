"""What of a client's request passes through beside its body."""

import pytest

from gatepass.call import Request
from gatepass.upstream.raw import passed_on

OWN = Request("GET", "https://u.example/v1/files", ((b"accept", b"application/json"), (b"x-request-id", b"1")))


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        (b"", ""),
        (b"limit=2&after=file-1", "?limit=2&after=file-1"),
        (b"api_key=mine&purpose=batch", "?purpose=batch"),
        (b"include[]=logprobs", "?include[]=logprobs"),
        (b"include%5B%5D=reasoning.encrypted_content&Limit=2", "?include%5B%5D=reasoning.encrypted_content"),
        (
            b"stream=true&starting_after=7&include_obfuscation=false&a=b",
            "?stream=true&starting_after=7&include_obfuscation=false",
        ),
        (b"limit", ""),
        (b"limit=2#x", ""),
        (b"limit=" + b"9" * 600, ""),
        (b"api-version=1", ""),
    ],
)
def test_only_known_parameters_in_plain_letters_go_up(query, asked):
    assert passed_on(OWN, (), query, None).url == OWN.url + asked


def test_they_stand_behind_the_dialects_own():
    url = "https://u.example/openai/files?api-version=2024-10-21"
    assert passed_on(Request("GET", url), (), b"limit=2", None).url == url + "&limit=2"


class Nothing:
    length_bytes = 0

    def again(self):
        return True

    async def __aiter__(self):
        yield b""


def test_the_media_types_are_the_clients():
    headers = ((b"accept", b"audio/mpeg"), (b"content-type", b"multipart/form-data; boundary=b"), (b"cookie", b"a"))
    upload = Nothing()
    request = passed_on(OWN, headers, b"", upload)
    assert request.headers == (
        (b"x-request-id", b"1"),
        (b"accept", b"audio/mpeg"),
        (b"content-type", b"multipart/form-data; boundary=b"),
    )
    assert request.upload is upload
    assert dict(passed_on(OWN, headers[1:], b"", None).headers) == {b"x-request-id": b"1", b"accept": b"*/*"}
