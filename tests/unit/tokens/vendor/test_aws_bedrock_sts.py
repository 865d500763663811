from urllib.parse import parse_qs

import pytest

from gatepass.tokens.vendor.aws_bedrock import AwsKeys, parse_sts_session, role_form
from tests.unit.tokens.scripted import failure_of, timed_response

ROLE = "arn:aws:iam::123456789012:role/bedrock"
GRANTED = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
<AccessKeyId>ASIAEXAMPLE</AccessKeyId><SecretAccessKey>secret/of+session</SecretAccessKey>
<SessionToken>token/of+session==</SessionToken><Expiration>2026-01-02T03:04:05Z</Expiration>
</Credentials></AssumeRoleResult></AssumeRoleResponse>"""


def refused(code: str, message: str = "No.") -> bytes:
    return f"<ErrorResponse><Error><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>".encode()


def form(body: bytes) -> dict[str, str]:
    return {name: value for name, (value,) in parse_qs(body.decode()).items()}


@pytest.mark.parametrize(("lifetime_s", "asked"), [(60.0, "900"), (1_800.0, "1800"), (43_200.0, "3600")])
def test_role_session_has_the_longest_common_lifetime(lifetime_s, asked):
    assert form(role_form(ROLE, lifetime_s, "jwt")) == {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": ROLE,
        "RoleSessionName": "gatepass",
        "DurationSeconds": asked,
        "WebIdentityToken": "jwt",
    }


def test_a_session_is_read():
    keys = parse_sts_session(timed_response(200, (), GRANTED.encode()), "sts.example")
    assert keys == AwsKeys("ASIAEXAMPLE", "secret/of+session", "token/of+session==", 1_767_323_045.0)
    assert "secret/of" not in repr(keys)
    assert "token/of" not in repr(keys)


def test_invalid_expiration_is_ignored():
    reply = timed_response(200, (), GRANTED.replace("2026-01-02T03:04:05Z", "soon").encode())
    assert parse_sts_session(reply, "sts.example").ends_s is None


@pytest.mark.parametrize("body", [b"", b"{}", GRANTED.replace("SessionToken", "Other").encode()])
async def test_a_reply_without_keys_is_not_quoted(body):
    failure = await failure_of(lambda: parse_sts_session(timed_response(200, (), body), "sts.example"))
    assert failure.reason == "sts.example answered 200 without a session's keys"


@pytest.mark.parametrize(
    ("status", "body", "expected", "definite", "quick"),
    [
        (
            403,
            refused("AccessDenied", "User: secret-one is not allowed"),
            "the issuer refused the client: sts.example answered 403: AccessDenied: User: *** is not allowed",
            True,
            True,
        ),
        (400, refused("Throttling"), "sts.example answered 400: Throttling: No.", False, True),
        (400, refused("IDPCommunicationError"), "sts.example answered 400: IDPCommunicationError: No.", False, True),
        (429, b"", "sts.example answered 429", False, False),
        (503, b"busy", "sts.example answered 503: busy", False, True),
    ],
)
async def test_a_refusal_is_quoted(status, body, expected, definite, quick):
    def mask(text: str) -> str:
        return text.replace("secret-one", "***")

    failure = await failure_of(lambda: parse_sts_session(timed_response(status, (), body, mask=mask), "sts.example"))
    assert (failure.reason, failure.is_refused) == (expected, definite)
