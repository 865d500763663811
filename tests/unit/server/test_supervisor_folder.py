import stat

import pytest

from gatepass.server.listening import SHARED_MEMORY
from gatepass.server.supervisor import NoFolder, own_folder


def test_workers_folder_is_in_memory_private_and_removed_at_the_end():
    with own_folder() as folder:
        assert str(folder.parent) == SHARED_MEMORY
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


def test_without_shared_memory_one_line_states_what_to_do(tmp_path):
    missing = tmp_path / "none"
    with pytest.raises(NoFolder) as caught, own_folder(str(missing)):
        pass
    assert str(caught.value) == (
        f"several workers share a folder in {missing}, and none can be created there (No such file or directory):"
        " mount a tmpfs there, or set server.workers: 1"
    )


def test_the_folder_of_a_killed_supervisor_is_removed_and_that_of_a_living_one_is_not(tmp_path):
    left, foreign = tmp_path / "gatepass-left", tmp_path / "gatepass-no-supervisor"
    for folder in (left, foreign):
        folder.mkdir()
        (folder / "value-token").write_text("a-token")
    (left / "alive").touch()
    with own_folder(str(tmp_path)) as living, own_folder(str(tmp_path)) as other:
        assert living.is_dir()
        assert other.is_dir()
        assert not left.exists()
        assert foreign.is_dir(), "a folder without the supervisor's file is somebody else's"


def test_link_instead_of_the_lock_file_removes_nothing(tmp_path):
    planted, target = tmp_path / "gatepass-planted", tmp_path / "target"
    planted.mkdir()
    target.touch()
    (planted / "alive").symlink_to(target)
    with own_folder(str(tmp_path)):
        assert planted.is_dir()
