"""docs/configuration.md names each variable and operation, and its examples load."""

import json
import re
from pathlib import Path

import pytest
from docs.generate import pages

from gatepass.auth.model_access import DESTINATIONS, MODELS
from gatepass.config.access import Profile
from gatepass.config.checks import PLANNED
from gatepass.config.credential.http_json import BODIES, OF_REQUEST, PER_REQUEST, PRESETS
from gatepass.config.load import load
from gatepass.config.references import NAMES, SECRETS
from gatepass.config.yaml_file import parse_yaml
from gatepass.dialects.base import FORWARDED, RELAYED, RELAYED_PREFIXES
from gatepass.operations.table import OPERATIONS

TEXT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
REFERENCE = pages()["configuration.md"]
VARIABLES = set(re.findall(r"^\| `GATEPASS_([A-Z_]+)` \|", TEXT, re.MULTILINE))
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def entry(title: str) -> str:
    """The text of a setting in the reference."""
    return REFERENCE.partition(f"\n### `{title}`")[2].partition("\n### ")[0]


def test_the_page_is_a_guide_of_at_most_3000_words():
    assert len(TEXT.split()) <= 3000


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_loads(example, tmp_path):
    secret = {"type": "static", "token": "x"}
    upstream = {"base_url": "http://localhost"}
    tree = {
        "credentials": {"corp": secret},
        "upstreams": dict.fromkeys(("azure", "chat", "first", "second", "think", "vectors"), upstream),
        "models": {"*": {"upstream": "chat"}},
        **parse_yaml("example", example).tree,
    }
    tree["credentials"] = {"corp": secret} | tree["credentials"]
    path = tmp_path / "gatepass.json"
    path.write_text(json.dumps(tree))
    names = set(re.findall(r"\$\{([A-Z_]+)\}", example))
    loaded = load(str(path), {name: f"{name:x<20}" for name in names})
    assert not any("did you mean" in warning for warning in loaded.warnings)


def anchor(heading: str) -> str:
    """As GitHub makes it: lower case, without punctuation, hyphens for spaces."""
    return re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("text", [TEXT, REFERENCE])
@pytest.mark.parametrize("target", [TEXT, REFERENCE])
def test_every_link_leads_to_a_heading(text, target):
    start = "" if text is target else "reference/configuration.md" if text is TEXT else "../configuration.md"
    anchors = {anchor(heading) for heading in re.findall(r"^#+ (.+)$", target, re.MULTILINE)}
    assert [link for link in re.findall(rf"\]\({re.escape(start)}#([^)]+)\)", text) if link not in anchors] == []


def test_every_variable_is_documented_and_nothing_else_is():
    plain = {variable for variable in NAMES if variable.removesuffix("_FILE") not in SECRETS or variable in SECRETS}
    assert plain | {"CONFIG"} == VARIABLES
    for secret in SECRETS:
        assert f"`GATEPASS_{secret}_FILE`" in TEXT


def test_every_header_that_always_goes_up_is_named():
    text = entry("upstreams.NAME.forward_headers")
    assert {name for name in FORWARDED if f"`{name.decode()}`" not in text} == set()


def test_every_operation_is_in_the_table():
    table = TEXT.partition("## Operations")[2].partition("\n## ")[0]
    rows = {name for cell in re.findall(r"^\| (`[a-z`, ]+) \|", table, re.MULTILINE) for name in cell.split("`")[1::2]}
    assert rows == {operation.name for operation in OPERATIONS} - {"model"}


def test_what_is_not_built_yet_is_named():
    section = TEXT.partition("## Not built yet")[2]
    for pattern in PLANNED:
        assert pattern[-1] in section.replace("the dialects", "dialect").replace("the types", "type")


def test_the_members_that_a_limited_key_may_not_use_freely_are_listed():
    text = entry("access.keys[].models")
    assert [name for name in sorted(MODELS | DESTINATIONS | {"extra_body"}) if f"`{name}`" not in text] == []


def test_the_response_headers_that_go_to_clients_are_listed():
    text = entry("upstreams.NAME.forward_response_headers")
    names = [*RELAYED, *(prefix + b"*" for prefix in RELAYED_PREFIXES)]
    assert [name for name in names if f"`{name.decode()}`" not in text] == []


def test_each_preset_is_listed_with_its_settings():
    text = entry("credentials.NAME.preset")
    for name, preset in PRESETS.items():
        (line,) = re.findall(rf"^- `{name}`: .*", text, re.MULTILINE)
        assert [setting for setting in preset.takes if f"`{setting}`" not in line] == []


def test_each_placeholder_of_a_signed_request_is_listed():
    for name in PER_REQUEST:
        assert f"`{{{name}}}`" in entry("credentials.NAME.sign")
    for name in {*OF_REQUEST, *BODIES}:
        assert f"`{{{name}}}`" in entry("credentials.NAME.sign.text")


def test_each_profile_setting_is_listed():
    for name in Profile.model_fields:
        assert entry(f"profiles.NAME.{name}")
