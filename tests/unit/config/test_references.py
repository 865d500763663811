import os

import pytest

from gatepass.config.environment import VariableValue, variable_value
from gatepass.config.references import (
    LARGEST_BYTES,
    Reference,
    ReferenceSource,
    UnresolvedReference,
    own_variables,
    read_file,
    resolve,
    without_braces,
)

ENVIRONMENT = {"NAME": "value", "NESTED": "${NAME}", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("a $ and $x", "a $ and $x"),
        ("$$", "$"),
        ("$${NAME}", "${NAME}"),
        ("$$$${x", "$${x"),
        ("${NAME}", "value"),
        ("<${NAME}-${NAME}>", "<value-value>"),
        ("$$${NAME}", "$value"),
        ("${NESTED}", "${NAME}"),
        ("${EMPTY}", ""),
    ],
)
def test_references_are_resolved_once(text, value):
    assert str(resolve(text, ENVIRONMENT)) == value


def test_reference_has_its_sources_and_hides_its_value():
    reference = resolve("x ${NAME}", ENVIRONMENT)
    assert isinstance(reference, Reference)
    assert (reference.template, reference.sources) == ("x ${NAME}", (ReferenceSource("environment", "NAME"),))
    assert repr([reference]) == "[Reference(x ${NAME})]"
    assert str(reference.sources[0]) == "environment NAME"
    assert not isinstance(resolve("a$$b", ENVIRONMENT), Reference)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${NAME", "opens ${ and does not close it"),
        ("${}", "neither the NAME of an environment variable nor file:/path"),
        ("${NAME:-default}", "neither the NAME"),
        ("${1NAME}", "neither the NAME"),
        ("${NAME} ${", "opens ${"),
        ("${file:/a\0b}", "the file /a\0b cannot be read: a NUL in its name"),
    ],
)
def test_an_unresolved_reference_has_a_reason(text, expected):
    with pytest.raises(UnresolvedReference) as caught:
        resolve(text, ENVIRONMENT)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *(("$NOPE", "NOPE"), ("$S3_KEY", "S3_KEY"), ("$lower", "lower"), ("$_x", "_x")),
        *(("$ecret", None), ("$", None), ("NOPE", None), ("$$NOPE", None), ("${NOPE}", None), ("$1", None)),
        *(("a$NOPE", None), ("$NOPE/x", None), ("$NOPE\n", None), ("$NÖPE", None), ("$_", None)),
    ],
)
def test_dollar_and_a_name_look_like_a_reference(text, name):
    assert without_braces(text, {"lower": "x", "_x": "y"}) == name


def test_a_file_is_read_again_each_time(tmp_path):
    file = tmp_path / "secret"
    file.write_text("one\n")
    reference = resolve(f"Bearer ${{file:{file}}}", {})
    assert isinstance(reference, Reference)
    file.write_text("two\r\n")
    assert (str(reference), reference.read()) == ("Bearer one", "Bearer two")


def test_a_file_loses_only_the_line_break_at_its_end(tmp_path):
    file = tmp_path / "secret"
    file.write_bytes(b" a\nb \n\n")
    assert read_file(str(file)) == " a\nb "


def test_a_file_that_is_no_secret_is_refused(tmp_path):
    file = tmp_path / "secret"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UnresolvedReference, match="not UTF-8"):
        read_file(str(file))
    file.write_bytes(b"x" * LARGEST_BYTES)
    assert len(read_file(str(file))) == LARGEST_BYTES
    file.write_bytes(b"x" * (LARGEST_BYTES + 1))
    with pytest.raises(UnresolvedReference, match="larger than"):
        read_file(str(file))
    with pytest.raises(UnresolvedReference, match="Is a directory"):
        read_file(str(tmp_path))


def test_a_pipe_is_refused_at_once(tmp_path):
    """Its open would wait for a writer, and would block the event loop, which reads rotated keys."""
    pipe = tmp_path / "key"
    os.mkfifo(pipe)
    with pytest.raises(UnresolvedReference, match="key cannot be read: it is not a regular file"):
        read_file(str(pipe))
    with pytest.raises(UnresolvedReference, match="cannot be read: it is not a regular file"):
        read_file("/dev/zero")


def test_own_variables_lose_their_prefix_and_the_empty_ones():
    environment = {"GATEPASS_HOST": "h", "GATEPASS_PROXY": "", "HOST": "x", "gatepass_port": "1"}
    assert own_variables(environment) == {"HOST": "h"}


def test_variables_that_kubernetes_sets_for_a_service_named_gatepass_are_ignored():
    environment = {
        "GATEPASS_PORT": "tcp://10.0.0.1:8080",
        "GATEPASS_SERVICE_HOST": "10.0.0.1",
        "GATEPASS_SERVICE_PORT": "8080",
        "GATEPASS_SERVICE_PORT_HTTP": "8080",
        "GATEPASS_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "GATEPASS_PORT_8080_TCP_ADDR": "10.0.0.1",
        "GATEPASS_NAME": "/app/gatepass",
        "GATEPASS_ENV_PATH": "/bin",
    }
    assert own_variables(environment) == {}
    assert own_variables({"GATEPASS_PORT": "8080", "GATEPASS_PORTS": "x"}) == {"PORT": "8080", "PORTS": "x"}


def test_a_secret_may_stand_in_a_file(tmp_path):
    file = tmp_path / "token"
    file.write_text("abc\n")
    found = variable_value({"TOKEN_FILE": str(file)}, "TOKEN")
    assert found == VariableValue("TOKEN_FILE", "abc", str(file))
    assert isinstance(found.value, Reference)
    file.unlink()
    assert variable_value({"TOKEN_FILE": str(file)}, "TOKEN") == VariableValue(
        "TOKEN_FILE", "", str(file), f"the file {file} cannot be read: No such file or directory"
    )
