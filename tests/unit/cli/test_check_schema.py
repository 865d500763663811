import json
import re

from click.testing import CliRunner

from gatepass.cli.check import editor_schema, schema


def test_the_schema_is_printed_as_json():
    result = CliRunner().invoke(schema)
    assert result.exit_code == 0
    assert json.loads(result.output) == editor_schema()


def test_the_schema_names_the_blocks_of_the_file():
    found = editor_schema()
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(found["properties"]) == {
        *("server", "limits", "credentials", "upstreams", "operations", "models", "profiles", "access", "log", "store"),
        *("mcp", "network", "tracing"),
    }
    assert found["anyOf"] == [{"required": ["upstreams"]}, {"required": ["mcp"]}]
    assert found["additionalProperties"] is False
    assert "Numbers, true and false are never references" in found["description"]
    assert "json" in found["$defs"]["HttpJsonCredential"]["properties"]


def test_a_pattern_takes_a_reference_too():
    pattern = editor_schema()["$defs"]["AccessKey"]["properties"]["hash"]["anyOf"][0]["pattern"]
    texts = ["sha256:" + "0" * 64, "${HASH}", "sha256:zz"]
    assert [bool(re.search(pattern, text)) for text in texts] == [True, True, False]


def test_texts_say_that_they_take_references_and_numbers_do_not():
    server = editor_schema()["$defs"]["ServerConfig"]["properties"]
    assert server["host"]["description"].endswith("(references allowed)")
    assert "references" not in server["port"]["description"]
    assert "references" not in editor_schema()["$defs"]["Log"]["properties"]["format"]["description"]


def test_every_setting_of_the_schema_is_described():
    bare = [
        f"{block}.{name}"
        for block, found in editor_schema()["$defs"].items()
        for name, setting in found["properties"].items()
        if not setting.get("description")
    ]
    assert bare == []
