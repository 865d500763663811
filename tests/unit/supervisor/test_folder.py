from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest

from gatepass.supervisor.folder import SHARED_MEMORY, NoFolder, own_folder


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that tempfile picks where no other is named."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path


def test_the_workers_folder_is_in_memory_for_their_user_alone_and_goes_with_its_block():
    with own_folder() as name:
        assert str(Path(name).parent) == SHARED_MEMORY
        assert stat.S_IMODE(Path(name).stat().st_mode) == 0o700
    assert not Path(name).exists()


def test_without_shared_memory_the_folder_is_on_a_disk(disk):
    with own_folder(str(disk / "none")) as name:
        assert Path(name).parent == disk
        assert stat.S_IMODE(Path(name).stat().st_mode) == 0o700


def test_without_any_place_one_line_says_what_to_do(monkeypatch, tmp_path):
    def refuse() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", refuse)
    missing = tmp_path / "none"
    with pytest.raises(NoFolder) as caught:
        own_folder(str(missing))
    assert str(caught.value) == (
        f"several workers share a folder, and none can be made in {missing} or the usual folders"
        " (No usable temporary directory found): mount a tmpfs on /tmp, name a folder in TMPDIR,"
        " or set server.workers: 1"
    )
