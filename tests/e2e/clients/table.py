"""The table of docs/compatibility.md: version, tested operations and number of right results of each client."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.e2e.clients.measurement import CHATS, MEDIA, VECTORS, Assessments, Client, PathResults
from tests.e2e.clients.scenario import Kind
from tests.e2e.quirks.assessment import Outcome
from tests.e2e.servers import ROOT

PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- the table: python -m tests.e2e.clients --write -->\n", "<!-- end of the table -->\n"
GROUPS: Mapping[str, Sequence[Kind]] = {
    "chats": CHATS,
    "completions": ("completions",),
    "responses": ("responses",),
    "model list": ("models",),
    "embeddings": VECTORS,
    "rerank": ("rerank",),
    "media and files": MEDIA,
}
"""The kinds of scenarios under the names that the page uses."""


def text(clients: Sequence[Client], direct: PathResults, via_gatepass: PathResults) -> str:
    return "\n".join(_lines(clients, direct, via_gatepass))


def _lines(clients: Sequence[Client], direct: PathResults, via_gatepass: PathResults) -> Iterator[str]:
    yield "| client | version | tested | right without gatepass | right with gatepass |"
    yield "|---|---|---|---|---|"
    for client in clients:
        tested = ", ".join(name for name, kinds in GROUPS.items() if set(kinds) <= set(client.kinds))
        counts = " | ".join(_right_count(results.assessments[client.title]) for results in (direct, via_gatepass))
        yield f"| {client.title} | {client.version()} | {tested} | {counts} |"


def _right_count(assessments: Assessments) -> str:
    return f"{sum(assessment.outcome is Outcome.RIGHT for assessment in assessments.values())} of {len(assessments)}"


def shown() -> str:
    """Return the table that the page contains."""
    return PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].strip("\n")


def write(table: str, page: Path = PAGE, begin: str = BEGIN) -> None:
    before, rest = page.read_text(encoding="utf-8").split(begin)
    page.write_text(f"{before}{begin}\n{table}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")
