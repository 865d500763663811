from __future__ import annotations

from pathlib import Path

from gatepass.tokens.sources.file import WatchedFile
from gatepass.tokens.sources.refresh_token import is_bare


def test_bare_texts_are_counted_and_texts_of_gatepass_are_not(tmp_path: Path):
    file = tmp_path / "refresh"
    mark = WatchedFile(str(file), lambda: 1_800_000_000.0, is_bare).mark()
    marks = [mark.reveal()]
    for text in ("first", "first", '{"refresh_token": "a"}', '{"refresh_token": "b"}', "second", "", "second"):
        file.write_text(text)
        marks.append(mark.reveal())
    file.unlink()
    marks.append(mark.reveal())
    assert marks == ["0", "1", "1", "1", "1", "2", "2", "3", "3"]
