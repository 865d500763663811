"""The files of the page at /ui, from the folder `static`, which the wheel contains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

FOLDER = Path(__file__).parent / "static"
INDEX = "index.html"
TYPES: Mapping[str, str] = MappingProxyType(
    {
        ".css": "text/css; charset=utf-8",
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".json": "application/json",
        ".png": "image/png",
        ".svg": "image/svg+xml",
        ".txt": "text/plain; charset=utf-8",
    }
)
"""The content types of the files. A file with another suffix is not served."""


@dataclass(frozen=True, slots=True)
class StaticFile:
    content: bytes = field(repr=False)
    content_type: str
    etag: str


def static_files(folder: Path = FOLDER) -> Mapping[str, StaticFile]:
    """Read all files of the page, by their paths relative to `…/ui/`. The index is also at the empty path."""
    found = {
        path.relative_to(folder).as_posix(): _read(path)
        for path in sorted(folder.rglob("*"))
        if path.suffix in TYPES and path.is_file()
    }
    if INDEX in found:
        found[""] = found[INDEX]
    return MappingProxyType(found)


def _read(path: Path) -> StaticFile:
    content = path.read_bytes()
    return StaticFile(content, TYPES[path.suffix], f'"{sha256(content).hexdigest()[:32]}"')


def is_current(etag: str, if_none_match: str) -> bool:
    """Return whether the client's copy is the file (RFC 9110, section 13.1.2: the comparison is weak)."""
    listed = [one.strip().removeprefix("W/") for one in if_none_match.split(",")]
    return "*" in listed or etag in listed
