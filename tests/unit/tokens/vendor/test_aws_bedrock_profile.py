import pytest

from gatepass.tokens.vendor.aws_bedrock import UNSUPPORTED_PROFILE_KEYS, AwsKeys, profile_keys

FILE = """
[default]
aws_access_key_id = AKIDEFAULT
aws_secret_access_key = secret%of=default

[work]
aws_access_key_id: AKIDWORK
aws_secret_access_key: secret-of-work
aws_session_token = token-of-work
"""


def test_a_profile_has_its_own_keys():
    assert profile_keys(FILE, "default") == AwsKeys("AKIDEFAULT", "secret%of=default")
    assert profile_keys(FILE, "work") == AwsKeys("AKIDWORK", "secret-of-work", "token-of-work")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (FILE, "has no profile other"),
        ("", "has no profile other"),
        ("[other]", "has a profile other without aws_access_key_id and aws_secret_access_key"),
        ("[other]\naws_access_key_id = secret-of-theirs", "has a profile other without aws_access_key_id and"),
        ("secret-of-theirs", "is not a file of AWS profiles"),
        ("[other]\n[other]", "is not a file of AWS profiles"),
    ],
)
def test_a_profile_without_keys_is_reported_without_quoting_the_file(text, expected):
    with pytest.raises(ValueError) as caught:
        profile_keys(text, "other")
    assert str(caught.value).startswith(expected)
    assert "secret-of-theirs" not in str(caught.value)


@pytest.mark.parametrize("member", UNSUPPORTED_PROFILE_KEYS)
def test_keys_that_are_had_past_the_network_are_refused_by_name(member):
    text = f"[other]\n{member} = x\naws_access_key_id = a\naws_secret_access_key = b"
    with pytest.raises(ValueError, match=f"has a profile other with {member}, which would bypass `network`"):
        profile_keys(text, "other")
