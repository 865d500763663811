from __future__ import annotations

from pathlib import Path

from gatepass.tokens.sources.refresh_token import RefreshTokenFileWatch


def test_bare_texts_are_news_and_what_gatepass_writes_is_none(tmp_path: Path):
    file = tmp_path / "refresh"
    mark = RefreshTokenFileWatch(str(file), lambda: 1_800_000_000.0).mark()
    told = [mark.reveal()]
    for text in ("first", "first", '{"refresh_token": "a"}', '{"refresh_token": "b"}', "second", "", "second"):
        file.write_text(text)
        told.append(mark.reveal())
    file.unlink()
    told.append(mark.reveal())
    assert told == ["0", "1", "1", "1", "1", "2", "2", "3", "3"]
