from datetime import datetime

import botocore.auth
import pytest

from gatepass.tokens.vendor.aws_bedrock import AwsKeys, bedrock_key

KEYS = AwsKeys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
SESSION = AwsKeys(KEYS.access_key_id, KEYS.secret_access_key, "session/token+of=it")
OF_AWS = (
    "bedrock-api-key-YmVkcm9jay5hbWF6b25hd3MuY29tLz9BY3Rpb249Q2FsbFdpdGhCZWFyZXJUb2tlbiZYLUFtei1BbGdvcml0aG09QVdTNC1I"
    "TUFDLVNIQTI1NiZYLUFtei1DcmVkZW50aWFsPUFLSURFWEFNUExFJTJGMjAyNjAxMDIlMkZ1cy13ZXN0LTIlMkZiZWRyb2NrJTJGYXdzNF9yZXF1"
    "ZXN0JlgtQW16LURhdGU9MjAyNjAxMDJUMDMwNDA1WiZYLUFtei1FeHBpcmVzPTcyMDAmWC1BbXotU2lnbmVkSGVhZGVycz1ob3N0JlgtQW16LVNp"
    "Z25hdHVyZT05Zjc3YWQyMzUyNTM2ZTMwZmZjMGRlYWJjYmRjNmZhZWRhZTk3NzViYWI3NWVlMDE2ZDM3ZjQ4MjBhYWEyYmZkJlZlcnNpb249MQ=="
)
OF_AWS_IN_A_SESSION = (
    "bedrock-api-key-YmVkcm9jay5hbWF6b25hd3MuY29tLz9BY3Rpb249Q2FsbFdpdGhCZWFyZXJUb2tlbiZYLUFtei1BbGdvcml0aG09QVdTNC1I"
    "TUFDLVNIQTI1NiZYLUFtei1DcmVkZW50aWFsPUFLSURFWEFNUExFJTJGMjAyNjAxMDIlMkZ1cy13ZXN0LTIlMkZiZWRyb2NrJTJGYXdzNF9yZXF1"
    "ZXN0JlgtQW16LURhdGU9MjAyNjAxMDJUMDMwNDA1WiZYLUFtei1FeHBpcmVzPTcyMDAmWC1BbXotU2lnbmVkSGVhZGVycz1ob3N0JlgtQW16LVNl"
    "Y3VyaXR5LVRva2VuPXNlc3Npb24lMkZ0b2tlbiUyQm9mJTNEaXQmWC1BbXotU2lnbmF0dXJlPTE2ZGNiNmYxNTViMTMyNjZkMDA3ZDA3MzJkMjFl"
    "OWYxMmNjMzI2YmZiNTAxYjZkNjZhODJjMTg0YzMzMGNlMWUmVmVyc2lvbj0x"
)
"""The key of aws-bedrock-token-generator 1.1.0 for us-west-2 and two hours, at 2026-01-02 03:04:05 UTC."""


@pytest.fixture(autouse=True)
def moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: datetime(2026, 1, 2, 3, 4, 5))


@pytest.mark.parametrize(("keys", "expected"), [(KEYS, OF_AWS), (SESSION, OF_AWS_IN_A_SESSION)])
def test_key_equals_that_of_awss_generator(keys, expected):
    assert bedrock_key(keys, "us-west-2", 7_200.0) == expected
