"""The workflows of the forge have the least permissions, and zizmor finds no fault in them."""

import re
import subprocess
from pathlib import Path

import pytest
from release.build import ROOT
from ruamel.yaml import YAML

from tests.waiting import BOUND_S

WORKFLOWS = ROOT / ".github/workflows"
NAMES = sorted(file.name for file in WORKFLOWS.iterdir())


def zizmor(folder: Path) -> tuple[int, str]:
    """Return the exit code and the findings. Offline: zizmor asks no server about actions."""
    command = [str(ROOT / ".release/bin/zizmor"), "--offline", "--no-progress", "--persona=auditor", "--collect=all"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False, timeout=BOUND_S)
    return done.returncode, done.stdout + done.stderr


def test_zizmor_finds_nothing():
    code, output = zizmor(WORKFLOWS.parent)
    assert code == 0, output
    assert all(f"workflows/{name}" in output for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_actions_are_pinned_and_no_job_has_a_permission_that_it_does_not_name(name):
    text = (WORKFLOWS / name).read_text()
    workflow = YAML(typ="safe").load(text)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    used = re.findall(r"uses: (\S+)(.*)", text)
    assert all(
        action.startswith("./")
        or (re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action) and re.match(r" # v\d", version))
        for action, version in used
    )
    assert "secrets." not in text, "trusted publishing and the token of the run need no stored secret"


def test_one_commit_is_used_of_each_action():
    texts = "".join((WORKFLOWS / name).read_text() for name in NAMES)
    pins = set(re.findall(r"uses: (actions/[a-z-]+)@([0-9a-f]{40})", texts))
    assert len(pins) == len(dict(pins)) == 5


def test_only_the_jobs_that_publish_have_an_identity():
    release = YAML(typ="safe").load((WORKFLOWS / "release.yml").read_text())
    identified = {name for name, job in release["jobs"].items() if "id-token" in job["permissions"]}
    assert identified == {"image", "pypi", "forge"}
    assert release["jobs"]["pypi"]["environment"] == "pypi"
    assert release["jobs"]["build"]["permissions"] == {"contents": "read"}
