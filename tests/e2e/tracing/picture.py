"""Draws a trace as the collector received it: `make trace-picture` writes docs/images/trace.svg."""

from collections.abc import Iterator, Sequence
from html import escape

from tests.e2e.servers import ROOT
from tests.e2e.tracing.collector import Span

WIDTH, LEFT, RIGHT = 760, 300, 736
"""Of the picture, and between which x the time runs."""
TOP, ROW = 56, 46
TICKS_MS = 100

STYLE = """\
    text { font: 14px system-ui, sans-serif; fill: #1f2937 }
    .small { font-size: 12px; fill: #4b5563 }
    .bold { font-weight: 600 }
    .mid { text-anchor: middle }
    .own { fill: #99d5cf; stroke: #0f766e; stroke-width: 1.5 }
    .bad { fill: #fecaca; stroke: #b91c1c; stroke-width: 1.5 }
    .event { fill: #1f2937 }
    .axis { stroke: #cbd5e1 }"""


def picture(spans: Sequence[Span]) -> str:
    """Return the SVG of a trace, whose first span is its root."""
    root = spans[0]
    rows = sorted((one for one in spans if one.trace == root.trace), key=_order)
    depths = {root.parent: -1}
    for one in rows:
        depths[one.id] = depths.get(one.parent, 0) + 1
    end_ns = max(one.ended_ns for one in rows)

    def x(at_ns: int) -> float:
        return LEFT + (RIGHT - LEFT) * (at_ns - root.began_ns) / (end_ns - root.began_ns)

    drawn = list[str]()
    height = TOP + ROW * len(rows) + 8
    for ms in range(0, int((end_ns - root.began_ns) / 1e6) + 1, TICKS_MS):
        at = x(root.began_ns + ms * 1_000_000)
        drawn.append(f'<path class="axis" d="M{at:.1f} 36 V{height - 8}"/>')
        drawn.append(f'<text class="small mid" x="{at + 2:.1f}" y="28">{ms} ms</text>')
    for y, one in zip(range(TOP, height, ROW), rows, strict=False):
        begin = x(one.began_ns)
        kind = "bad" if one.status == "ERROR" else "own"
        indent = 16 + 14 * depths[one.id]
        drawn.append(f'<text class="bold" x="{indent}" y="{y + 12}">{escape(one.name)}</text>')
        drawn.append(f'<text class="small" x="{indent}" y="{y + 28}">{escape(_about(one))}</text>')
        width = max(2.0, x(one.ended_ns) - begin)
        drawn.append(f'<rect class="{kind}" x="{begin:.1f}" y="{y}" width="{width:.1f}" height="16" rx="2"/>')
        for event in one.events:
            at = x(event.at_ns)
            drawn.append(f'<path class="event" d="M{at:.1f} {y + 2} l6 6 l-6 6 l-6 -6 z"/>')
            label = event.name.removeprefix("gatepass.").replace("_", " ")
            drawn.append(f'<text class="small mid" x="{at:.1f}" y="{y + 30}">{label}</text>')
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title desc">
  <title id="title">The trace of a failover with a token renewal</title>
  <desc id="desc">{escape(_description(rows))}</desc>
  <style>
{STYLE}
  </style>
  <rect width="{WIDTH}" height="{height}" rx="8" fill="#f8fafc"/>
  {"".join(f"{one}{chr(10)}  " for one in drawn).rstrip()}
</svg>
"""


def _order(span: Span) -> tuple[int, int]:
    return span.began_ns, -span.ended_ns


def _about(span: Span) -> str:
    """Return the attributes that tell the spans of one name apart."""
    status, upstream = span.attributes.get("http.response.status_code"), span.attributes.get("gatepass.upstream")
    tokens = span.attributes.get("gen_ai.usage.output_tokens")
    parts = [
        f"{span.attributes['error.type']}" if span.status == "ERROR" else "",
        f"{status}" if status else "",
        f"upstream {upstream}" if upstream and not status else "",
        f"{tokens} output tokens" if tokens else "",
        "resend 1" if span.attributes.get("http.request.resend_count") else "",
    ]
    return ", ".join(part for part in parts if part)


def _description(rows: Sequence[Span]) -> str:
    return " ".join(_sentences(rows))


def _sentences(rows: Sequence[Span]) -> Iterator[str]:
    for one in rows:
        took_ms = (one.ended_ns - one.began_ns) / 1e6
        yield f"{one.kind} span {one.name}: {took_ms:.0f} ms{', ' + about if (about := _about(one)) else ''}."


def write(spans: Sequence[Span]) -> None:
    (ROOT / "docs" / "images" / "trace.svg").write_text(picture(spans), encoding="utf-8")
