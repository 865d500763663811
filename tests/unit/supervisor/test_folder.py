from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest

from gatepass.supervisor.folder import NoFolder, own_folder

WORDS = (
    "several workers share a folder, and none can be made in {} ({}):"
    " mount a tmpfs on /tmp, name a folder in TMPDIR, or set server.workers: 1"
)


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No folder that tempfile knows can be written to: what a read-only root is like, for root too."""

    def refuse() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", refuse)


def test_the_workers_folder_is_for_their_user_alone_and_goes_with_its_block():
    with own_folder() as folder:
        assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
    assert not Path(folder).exists()


def test_where_the_root_is_read_only_the_folder_is_in_shared_memory(unwritable, tmp_path):
    with own_folder(str(tmp_path)) as folder:
        assert Path(folder).parent == tmp_path
        assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700


def test_without_any_place_one_line_says_what_to_do(unwritable, tmp_path):
    missing = tmp_path / "none"
    with pytest.raises(NoFolder) as caught:
        own_folder(str(missing))
    assert str(caught.value) == WORDS.format(f"the usual folders and {missing}", "No such file or directory")


def test_a_full_disk_is_told_with_its_place(monkeypatch, tmp_path):
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    with pytest.raises(NoFolder) as caught:
        own_folder()
    assert str(caught.value) == WORDS.format(tmp_path, "No space left on device")
