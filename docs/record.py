"""Record `make demo`, `gatepass init` and `doctor` as SVG: `make recordings` writes docs/images/recording_NAME.svg.

Each command runs in a pseudo-terminal, with the issuer and the gateway of examples/. The text is what it printed;
pauses are shortened, keys become `gp-…`, and the user becomes 1000. Without animation, a picture shows all lines.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from types import MappingProxyType

import click
from examples import demo

IMAGES = Path(__file__).parent / "images"
COLUMNS = 116
BOUND_S = 120.0
PAUSE_S, LONGEST_S = 0.05, 1.2
"""The shortest and the longest pause between two lines of a picture."""
TYPING_S = 0.4
"""How long a prompt is shown before it is answered."""
LINE_PX, CHAR_PX, MARGIN_PX = 18, 7.8, 16
CLASSES: Mapping[str, str] = MappingProxyType({"1": "b", "2": "d", "31": "r", "32": "g", "33": "y", "36": "p"})
TITLES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "demo": ("make demo ONCE=1", "A client works through gatepass for longer than a token lives."),
        "short": ("make demo ONCE=1", "The steps of the demo: stream, images, embeddings, and a replaced token."),
        "init": ("gatepass init", "gatepass init asks for the LLM gateway and the clients, and tests every hop."),
        "doctor": ("gatepass doctor demo-chat --call", "gatepass doctor tests every hop of one model."),
    }
)
_SGR = re.compile(r"\x1b\[([0-9;]*)m")
_OTHER = re.compile(r"\x1b\[[0-9;?]*[A-HJ-Zf-lno-z]")
_SHORT = re.compile(r"\d\. |   [\w-]+: ok|   answered|All steps")
"""The beginnings of the lines of the demo that the picture of README.md has."""
_KEY = re.compile(r"gp-[\w-]{20,}")
_USER = re.compile(r'user: "\d+:\d+"')

Lines = list[tuple[float, str]]
"""The second at which a line began, and its text with its colours."""


def record(command: Sequence[str], folder: Path, answers: Sequence[str], variables: Mapping[str, str]) -> Lines:
    """Run a command in `folder` on a pseudo-terminal, and type the next answer at each prompt."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    process = subprocess.Popen(  # noqa: S603 - the commands of pages
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=folder,
        env={**variables, "TERM": "xterm", "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    os.close(slave)
    try:
        chunks = list(_chunks(master, iter(answers)))
        code = process.wait(BOUND_S)
    finally:
        process.kill()
        os.close(master)
    if code:
        raise SystemExit(f"{command} ended with {code}:\n{''.join(text for _, text in chunks)}")
    return list(_lines(chunks))


def _chunks(master: int, answers: Iterator[str]) -> Iterator[tuple[float, str]]:
    started, tail = time.monotonic(), ""
    while (now := time.monotonic() - started) < BOUND_S:
        ready, _, _ = select.select([master], [], [], TYPING_S)
        if not ready:
            if tail.endswith(": ") and (answer := next(answers, None)) is not None:
                os.write(master, f"{answer}\n".encode())
                tail = ""
            continue
        try:
            data = os.read(master, 65536)
        except OSError:  # Linux reports EIO when the other end is closed
            return
        tail = data.decode(errors="replace")
        yield now, tail
    raise SystemExit(f"the command did not end within {BOUND_S:.0f} s")


def _lines(chunks: Sequence[tuple[float, str]]) -> Iterator[tuple[float, str]]:
    """Join the chunks to lines; a carriage return alone begins the line again."""
    line, began = "", 0.0
    for at_s, text in chunks:
        for part in re.findall(r"\r*\n|\r|[^\r\n]+", text):
            if part.endswith("\n"):
                yield began, line
                line = ""
            elif part == "\r":
                line = ""
            else:
                began = began if line else at_s
                line += _OTHER.sub("", part)
    if line.strip():
        yield began, line


def picture(name: str, lines: Lines) -> str:
    """Return the SVG. Its texts have no URL that a browser could load: each slash pair is a character reference."""
    command, description = TITLES[name]
    rows = [f'<text x="{MARGIN_PX}" y="{MARGIN_PX + LINE_PX}"><tspan class="b">$ {command}</tspan></text>']
    shown_s, last_s = 0.6, 0.0
    for at_s, line in lines:
        shown_s += min(max(at_s - last_s, PAUSE_S), LONGEST_S)
        last_s = at_s
        for row in _wrapped(_USER.sub('user: "1000:1000"', _KEY.sub("gp-…", line))):
            y = MARGIN_PX + LINE_PX * (len(rows) + 1)
            rows.append(f'<text class="l" x="{MARGIN_PX}" y="{y}" style="animation-delay:{shown_s:.1f}s">{row}</text>')
    width, height = round(COLUMNS * CHAR_PX + 2 * MARGIN_PX), LINE_PX * len(rows) + 3 * MARGIN_PX
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="title desc">
  <title id="title">{command}</title>
  <desc id="desc">{description}</desc>
  <style>
    text {{ font: 13px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #e2e8f0; white-space: pre }}
    .b {{ font-weight: 600 }} .d {{ fill: #94a3b8 }} .r {{ fill: #fca5a5 }} .g {{ fill: #86efac }}
    .y {{ fill: #fde68a }} .p {{ fill: #a5f3fc }}
    .l {{ animation: show 0.01s both }}
    @keyframes show {{ from {{ opacity: 0 }} to {{ opacity: 1 }} }}
    @media (prefers-reduced-motion: reduce) {{ .l {{ animation: none }} }}
  </style>
  <rect width="{width}" height="{height}" rx="8" fill="#0f172a"/>
  {"".join(f"{row}{chr(10)}  " for row in rows).rstrip()}
</svg>
"""


def _wrapped(line: str) -> Iterator[str]:
    """Yield the rows of one line, each at most COLUMNS wide, with a tspan for each colour. Break between words."""
    row, width, style = "", 0, ""
    for index, part in enumerate(_SGR.split(line)):
        if index % 2:
            style = " ".join(CLASSES[code] for code in part.split(";") if code in CLASSES)
            continue
        for word in re.findall(rf"\S{{1,{COLUMNS}}}|\s+", part):
            if width + len(word) > COLUMNS:
                yield row
                row, width = "", 0
                if word.isspace():
                    continue
            text = escape(word, quote=False).replace("//", "&#47;&#47;")
            row += f'<tspan class="{style}">{text}</tspan>' if style and text.strip() else text
            width += len(word)
    yield row


def recordings() -> Mapping[str, str]:
    """Return the four pictures by name."""
    shown = {}
    with tempfile.TemporaryDirectory() as name, demo.servers(9001, 9002) as ports:
        secret = demo.SECRETS["CHAT_SECRET"]
        issuer, gateway = (f"http://127.0.0.1:{ports[port]}" for port in (9001, 9002))
        answers = [f"{gateway}/v1", "oauth2", f"{issuer}/oauth/token", "demo-chat", "", secret, "", ""]
        answers += ["ragflow, librechat", "127.0.0.1"]
        foreign = ("GATEPASS_", "NO_COLOR")
        variables = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        for part in ("init", "doctor"):
            command = [sys.executable, "-P", "-m", *TITLES[part][0].split()]
            shown[part] = picture(part, record(command, Path(name), answers if part == "init" else (), variables))
        lines = record([sys.executable, "-P", demo.__file__, "--once"], Path(name), (), variables)
        shown["demo"] = picture("demo", lines)
        shown["short"] = picture("short", [line for line in lines if _SHORT.match(_SGR.sub("", line[1]))])
    return shown


if __name__ == "__main__":
    for name, svg in recordings().items():
        (IMAGES / f"recording_{name}.svg").write_text(svg)
        click.echo(f"docs/images/recording_{name}.svg: {len(svg.encode())} bytes")
