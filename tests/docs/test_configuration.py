"""docs/configuration.md holds every setting and variable, with its true default, and none that does not exist."""

import json
import re
from pathlib import Path

from gatepass.auth.model_access import DESTINATIONS, MODELS, NESTED
from gatepass.config.checks import PLANNED
from gatepass.config.references import NAMES, SECRETS
from gatepass.config.wording import SettingInfo, all_settings
from gatepass.dialects.base import FORWARDED, RELAYED, RELAYED_PREFIXES
from gatepass.operations.table import OPERATIONS

TEXT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
ROWS = dict(re.findall(r"^\| `([a-z_.\[\]NAME]+)` \| (`[^`]*`|required) \| .+ \| .*\|$", TEXT, re.MULTILINE))
VARIABLES = set(re.findall(r"^\| `GATEPASS_([A-Z_]+)` \|", TEXT, re.MULTILINE))
SHARED_BLOCKS = ("network", "timeouts", "token_placement", "rules")


def name(setting: SettingInfo) -> str:
    """The setting as people write it: `access.keys[].hash`, and once for all under blocks that many have."""
    pattern = setting.pattern
    for block in SHARED_BLOCKS:
        if block in pattern[:-1]:
            rest = pattern[pattern.index(block) + 1 :]
            return ".".join([block, *("NAME" if part == "*" else part for part in rest)])
    parts = [
        "[]" if part == "*" and pattern[index - 1] in ("keys", "targets") else "NAME" if part == "*" else part
        for index, part in enumerate(pattern)
    ]
    return ".".join(parts).replace(".[]", "[]")


def default(setting: SettingInfo) -> str:
    if setting.required:
        return "required"
    value = setting.default
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"`{value}`" if isinstance(value, str) and value else f"`{json.dumps(value)}`"


def test_every_setting_is_documented_with_its_default_and_nothing_else_is():
    leaves = {name(setting): default(setting) for setting in all_settings().values() if not setting.is_block}
    lists = {
        "access.keys": "`[]`",
        "models.NAME.targets": "`null`",
        "models.NAME.timeouts": "`null`",
        "operations.NAME.timeouts": "`null`",
        "models.NAME.operations.NAME.targets": "`null`",
        "models.NAME.operations.NAME.timeouts": "`null`",
    }
    assert {**leaves, **lists} == ROWS


def anchor(heading: str) -> str:
    """As GitHub makes it: lower case, without punctuation, hyphens for spaces."""
    return re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-")


def test_the_contents_name_every_section_and_every_link_within_the_page_leads_somewhere():
    headings = re.findall(r"^(#+) (.+)$", TEXT, re.MULTILINE)
    anchors = {anchor(heading) for _, heading in headings}
    linked = re.findall(r"\]\(#([^)]+)\)", TEXT)
    assert [link for link in linked if link not in anchors] == []
    contents = set(re.findall(r"\]\(#([^)]+)\)", TEXT.partition("\n## ")[0]))
    assert {anchor(heading) for depth, heading in headings if depth == "##"} <= contents
    sections = [heading for depth, heading in headings if depth == "##"]
    assert sections[:2] == ["The file", "Without a file"]


def test_every_block_has_a_heading():
    headings = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    for block in (
        "`server`",
        "`limits`",
        "`credentials.NAME`",
        "`upstreams.NAME`",
        "`models.NAME`",
        "`access`",
        "`log`",
    ):
        assert block in headings
    assert set(SHARED_BLOCKS) < set(headings)


def test_every_variable_is_documented_and_nothing_else_is():
    plain = {variable for variable in NAMES if variable.removesuffix("_FILE") not in SECRETS or variable in SECRETS}
    assert plain | {"CONFIG"} == VARIABLES
    for secret in SECRETS:
        assert f"`GATEPASS_{secret}_FILE`" in TEXT


def test_every_header_that_always_goes_up_is_named():
    row = next(line for line in TEXT.splitlines() if line.startswith("| `upstreams.NAME.forward_headers`"))
    assert {name for name in FORWARDED if f"`{name.decode()}`" not in row} == set()


def test_every_operation_is_in_the_table():
    table = TEXT.partition("## `operations.NAME`")[2].partition("\n\n| setting |")[0]
    rows = {name for cell in re.findall(r"^\| (`[a-z`, ]+) \|", table, re.MULTILINE) for name in cell.split("`")[1::2]}
    assert rows == {operation.name for operation in OPERATIONS} - {"model"}


def test_what_is_not_built_yet_is_named():
    section = TEXT.partition("## Not built yet")[2]
    for pattern in PLANNED:
        assert pattern[-1] in section.replace("the dialects", "dialect").replace("the types", "type")


def test_the_members_that_a_limited_key_may_not_use_freely_are_listed():
    access = TEXT.partition("\n## `access`\n")[2].partition("\n## ")[0]
    assert [name for name in sorted(MODELS | DESTINATIONS | NESTED) if f"`{name}`" not in access] == []


def test_the_response_headers_that_go_to_clients_are_listed():
    section = TEXT.partition("\n### Response headers\n")[2].partition("\n### ")[0]
    names = [*RELAYED, *(prefix + b"*" for prefix in RELAYED_PREFIXES)]
    assert [name for name in names if f"`{name.decode()}`" not in section] == []
