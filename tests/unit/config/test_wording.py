from collections.abc import Iterator
from typing import Any

from gatepass.config.model import Config
from gatepass.config.upstream import CODE
from gatepass.config.wording import PATTERNS


def patterns(schema: Any) -> Iterator[str]:
    """Every pattern of the model, as its JSON schema has them: of values and of names."""
    for name, part in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if name == "pattern" and isinstance(part, str):
            yield part
        if name == "patternProperties":
            yield from part
        if isinstance(part, dict | list):
            yield from patterns(part)


def test_every_pattern_of_the_settings_has_a_message():
    in_schema = set(patterns(Config.model_json_schema()))
    assert in_schema - set(PATTERNS) == set()
    assert set(PATTERNS) - in_schema == {CODE}, "a code may be a number too, and has a schema of its own"
