"""The two columns as Markdown: a row for each client, a cell for each thing to do. And the page that shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.e2e.clients.case import OTHERS, TALKS, Kind, cases
from tests.e2e.clients.street import Client, Side, Verdicts
from tests.e2e.quirks.verdict import Mark
from tests.e2e.servers import ROOT

PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- the table: python -m tests.e2e.clients --write -->\n", "<!-- end of the table -->\n"


def text(clients: Sequence[Client], raw: Side, through: Side) -> str:
    return "\n".join([*summary(raw, through), "", *talks(clients, raw, through), "", *others(clients, raw, through)])


def summary(raw: Side, through: Side) -> Iterator[str]:
    yield "| of all cases | straight at the upstream | through gatepass |"
    yield "|---|---|---|"
    told = {Mark.RIGHT: "right", Mark.ERROR: "error", Mark.WRONG: "wrong, no error", Mark.EMPTY: "nothing, no error"}
    for mark, title in told.items():
        yield f"| `{mark}` {title} | {raw.count(mark)} | {through.count(mark)} |"


def talks(clients: Sequence[Client], raw: Side, through: Side) -> Iterator[str]:
    """For each client a line of whole answers and one of streams; a mark for each of the models."""
    yield f"| client | version | | {' | '.join(TALKS.values())} |"
    yield f"|---|---|---|{'---|' * len(TALKS)}"
    for client in clients:
        if not TALKS.keys() & set(client.kinds):
            continue
        for streams, way in ((False, "whole"), (True, "streamed")):
            name = "| " if streams else f"{client.title} | {client.version()}"
            cells = (_cell(kind, client, raw, through, streams=streams) for kind in TALKS)
            yield f"| {name} | {way} | {' | '.join(cells)} |"


def others(clients: Sequence[Client], raw: Side, through: Side) -> Iterator[str]:
    """The rest, each asked of one model, and whole."""
    asked = [kind for kind in OTHERS if any(kind in client.kinds for client in clients)]
    yield f"| client | version | {' | '.join(OTHERS[kind] for kind in asked)} |"
    yield f"|---|---|{'---|' * len(asked)}"
    for client in clients:
        if set(asked) & set(client.kinds):
            cells = (_cell(kind, client, raw, through) for kind in asked)
            yield f"| {client.title} | {client.version()} | {' | '.join(cells)} |"


def _cell(kind: Kind, client: Client, raw: Side, through: Side, *, streams: bool = False) -> str:
    sides = (raw.verdicts[client.title], through.verdicts[client.title])
    return f"`{' '.join(_marks(kind, side, streams) for side in sides)}`" if kind in client.kinds else "·"


def _marks(kind: Kind, verdicts: Verdicts, streams: bool) -> str:
    return "".join(verdicts[case].mark for case in cases(kind) if case.streams is streams)


def shown() -> str:
    """The table as the page has it."""
    return PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].strip("\n")


def write(table: str) -> None:
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")
