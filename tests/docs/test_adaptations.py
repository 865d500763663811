"""docs/adaptations.md names each entry of x-gatepass-adapted, and what is learned."""

import re
from pathlib import Path

from gatepass.config.routes import LEARN_ALSO
from gatepass.learning.learned_rule import SAFE
from gatepass.normalize import embeddings_reply, rules
from gatepass.normalize.profiles import PlainTools, UntypedModel
from gatepass.normalize.rerank import Shaped
from gatepass.sse import client_transforms, event_stream
from gatepass.sse.choice_repair import NAMES as REPAIRS
from gatepass.sse.dialect_transforms import NAMES as RAGFLOW
from tests.unit.learning.rejections import ROWS
from tests.unit.learning.test_learned_rule import RULES_OF_TABLE

TEXT = (Path(__file__).parents[2] / "docs" / "adaptations.md").read_text()
SECTION = TEXT.partition("\n## Changes of requests and replies\n")[2]
TABLE = re.findall(r"^\| (`[a-z_]+=[^|]+) \|", SECTION.partition("\n## ")[0], re.MULTILINE)
PLACEHOLDER = {
    "PLACE": r"[A-Za-z_.\[\]]+",
    "OLD": r"[a-z_\[\].]+",
    "NEW": r"[a-z_]+",
    "VALUE": r"\S+",
    "SHAPE": "[a-z]+",
    "NAMES": "[a-z_,]+",
    "NAME": "[a-z-]+",
    "N": r"\d+",
}


BY_PROFILE = {
    client_transforms.CONTENT,
    client_transforms.LINE,
    client_transforms.COMMENTS,
    client_transforms.EMPTY_CHOICE,
    client_transforms.NO_CHUNK,
    client_transforms.PLAIN,
}
MENDED = {*REPAIRS, *event_stream.NAMES, *BY_PROFILE}


def patterns() -> list[str]:
    named = [entry for cell in TABLE for entry in re.findall(r"`([^`]+)`", cell)]
    return [re.sub("|".join(PLACEHOLDER), lambda found: PLACEHOLDER[found[0]], re.escape(entry)) for entry in named]


def test_every_entry_is_in_the_table():
    assert len(patterns()) > 15
    entries = {lesson.entry for lesson in RULES_OF_TABLE} | {entry for row in ROWS for entry in row.adapted}
    more = {"drop=replayed", "default=seed", "set=seed", "images=2", "drop=drop_params,model_type"}
    made = {
        Shaped().entry,
        UntypedModel().entry,
        PlainTools().entry,
        "extra_body=reference",
        rules.ADDED,
        *embeddings_reply.NAMES,
        *RAGFLOW,
        *MENDED,
    }
    for entry in entries | more | made:
        assert any(re.fullmatch(pattern, entry.partition(",")[0]) for pattern in patterns()), entry


def test_every_repair_of_a_stream_is_named_and_none_besides():
    section = TEXT.partition("\n## repair\n")[2]
    assert set(re.findall(r"`((?:repair|sse)=[a-z-]+)`", section)) == MENDED


def test_what_the_table_says_is_learned_is():
    row = next(line for line in SECTION.splitlines() if line.startswith("| `drop=PLACE`"))
    names = set(re.findall(r"`([a-z_]+)`", row)) - {"learn_also", "dimensions"}
    assert len(names) > 5
    assert names <= SAFE
    assert not names & LEARN_ALSO
