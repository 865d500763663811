"""Roles and ends of keys, and several keys of one caller, in the configuration."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from gatepass.config.access import SOON_S, AccessKey, expiry_warnings
from gatepass.config.document import ConfigError
from gatepass.config.load import load

HASH = "sha256:" + "0" * 64
END = datetime(2027, 1, 31, tzinfo=UTC)
CREATE = "create its successor with `gatepass keys rotate a`"


def key(**fields):
    return AccessKey(name="a", hash=HASH, **fields)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2027-01-31", END),
        ("2027-01-31T18:30:00Z", END + timedelta(hours=18, minutes=30)),
        ("2027-01-31t18:30:00.25z", END + timedelta(hours=18, minutes=30, seconds=0.25)),
        ("2027-01-31T01:00:00+02:00", END - timedelta(hours=1)),
        (datetime(2027, 1, 31, 1, tzinfo=timezone(timedelta(hours=1))), END),
    ],
)
def test_an_end_is_a_date_or_a_time(written, meant):
    assert key(expires=written).expires == meant


@pytest.mark.parametrize(
    "written",
    [
        *("", "soon", "2027", "2027-1-31", "2027-02-30", "20270131", "2027-W05-1", "2027-01-31 18:30:00Z"),
        *("2027-01-31T18:30:00", "2027-01-31T18:30Z", "2027-01-31T25:00:00Z", "9999-12-31T23:59:59-01:00"),
        *("2027-01-31\n", "\u0662027-01-31", 1801353600, 1.5, True, datetime(2027, 1, 31)),
    ],
)
def test_invalid_expiry_is_refused(written):
    with pytest.raises(ValidationError, match="expects a date, such as 2027-01-31, or an RFC 3339 time"):
        key(expires=written)


@pytest.mark.parametrize(
    ("left_s", "state"),
    [(-1, "expired"), (0, "expired"), (0.001, "expires soon"), (SOON_S, "expires soon"), (SOON_S + 1, "valid")],
)
def test_the_state_of_a_key(left_s, state):
    assert key(expires=END).state(END.timestamp() - left_s) == state
    assert key().state(1e12) == "valid"


def test_keys_near_their_end_are_warned_about():
    day_s = 86_400.0
    keys = [key(), key(expires="2027-01-31"), key(expires="2027-02-10T12:00:00Z"), key(expires="2028-01-01")]
    assert list(expiry_warnings(keys, END.timestamp() - 60 * day_s)) == []
    assert list(expiry_warnings(keys, END.timestamp())) == [
        f"access.keys[1]: this key of 'a' expired at 2027-01-31T00:00:00Z: {CREATE}, or remove it",
        f"access.keys[2]: this key of 'a' expires at 2027-02-10T12:00:00Z: {CREATE}",
    ]


def written(tmp_path, *entries):
    file = tmp_path / "gatepass.yaml"
    lines = "".join(f"  - {entry}\n" for entry in entries)
    file.write_text(f"upstreams: {{u: {{base_url: 'https://u/v1'}}}}\naccess:\n keys:\n{lines}")
    return str(file)


def hashed(digit):
    return f'"sha256:{digit * 64}"'


def test_the_file_warns_about_a_key_that_has_expired(tmp_path):
    file = written(
        tmp_path, f"{{name: a, hash: {hashed('1')}, expires: 2020-01-31}}", f"{{name: b, hash: {hashed('2')}}}"
    )
    loaded = load(file, {})
    assert loaded.warnings == tuple(expiry_warnings(loaded.config.access.keys, END.timestamp()))
    assert len(loaded.warnings) == 1
    assert "2020-01-31" in loaded.warnings[0]


def test_several_keys_may_belong_to_one_caller(tmp_path):
    entries = [f"{{name: a, role: admin, models: [m], hash: {hashed(digit)}}}" for digit in "12"]
    access = load(written(tmp_path, *entries, f"{{name: b, hash: {hashed('3')}}}"), {}).config.access
    assert (len(access.keys), access.callers) == (3, 2)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("file", "'file' is not known here; did you mean files?"),
        ("get files", "'get files' is not known here; did you mean GET files?"),
        ("POST file", "'POST file' is not known here; did you mean POST files?"),
        ("xyz", "'xyz' is not known here; there is chat, completions, embeddings, rerank, responses, GET responses, "),
    ],
)
def test_an_unknown_operation_of_a_key_is_reported_with_the_known_ones(tmp_path, entry, reason):
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, f"{{name: a, operations: [chat, {entry}], hash: {hashed('1')}}}"), {})
    assert f"access.keys[0].operations[1]: {reason}" in str(caught.value)


@pytest.mark.parametrize("entry", ["batches", "POST batches"])
def test_a_key_for_some_models_opens_no_batches_because_they_may_run_any(tmp_path, entry):
    key_entry = f"{{name: a, models: [m], operations: [{entry}], hash: {hashed('1')}}}"
    with pytest.raises(ConfigError, match=r"access\.keys\[0\]\.operations: opens batches, which may run any model"):
        load(written(tmp_path, key_entry), {})


def test_an_empty_list_of_operations_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"access\.keys\[0\]\.operations: is empty: at least one is needed"):
        load(written(tmp_path, f"{{name: a, operations: [], hash: {hashed('1')}}}"), {})


@pytest.mark.parametrize(
    ("operations", "is_warned"),
    [
        ('[chat, "POST batches"]', True),
        ("[batches]", True),
        ('[batches, "GET files"]', False),
        ("[batches, files]", False),
        ('["GET batches"]', False),
    ],
)
def test_a_key_that_creates_batches_needs_their_file(tmp_path, operations, is_warned):
    loaded = load(written(tmp_path, f"{{name: a, operations: {operations}, hash: {hashed('1')}}}"), {})
    without_file = 'access.keys[0].operations creates batches, but may not name the file of a batch: add "GET files"'
    assert loaded.warnings == ((without_file,) if is_warned else ())


ALONE, OTHER = f"name: a, hash: {hashed('1')}", f"name: b, hash: {hashed('2')}"


def test_stored_objects_that_no_request_named_are_no_warning(tmp_path):
    """The error of a request for one says what opens it."""
    loaded = load(written(tmp_path, f"{{{ALONE}}}", f"{{{OTHER}}}"), {})
    assert loaded.config.access.shares_objects
    assert loaded.warnings == ()


@pytest.mark.parametrize(
    "setting", ["role: viewer", "models: [m]", "operations: [chat]", "profile: dify", "max_concurrent: 3"]
)
def test_the_keys_of_one_caller_have_the_same_rights(tmp_path, setting):
    file = written(tmp_path, f"{{name: a, hash: {hashed('1')}, {setting}}}", f"{{name: a, hash: {hashed('2')}}}")
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    name = setting.partition(":")[0]
    assert str(caught.value) == (
        f"{file}:5: access.keys[1].{name}: differs from access.keys[0], which is a key of the same caller 'a':"
        " repeat the value there, or use another name"
    )


@pytest.mark.parametrize(
    ("entry", "profile"),
    [
        ("name: ragflow", "ragflow"),
        ("name: Cherry-Studio", "cherry_studio"),
        ("name: open_webui", None),
        ("name: ours", "ours"),
        ("name: ragflow, profile: plain", None),
        ("name: ragflow, role: viewer", None),
        ("name: ragflow-2", None),
    ],
)
def test_a_key_that_is_named_like_a_profile_uses_it(tmp_path, entry, profile):
    file = written(tmp_path, f"{{{entry}, hash: {hashed('1')}}}")
    with open(file, "a") as text:
        text.write("profiles: {ours: {keep_alive: 'off'}}\n")
    expected = "access.keys[0] is named like the profile {0} and does not use it: set profile: {0}, or profile: plain"
    assert load(file, {}).warnings == (() if profile is None else (expected.format(profile),))
