"""The wheel and the sdist of the commit that is checked out."""

import email
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from release.audit import Verdict
from release.build import (
    MACHINES,
    PYTHONS,
    ROOT,
    ReleaseFailed,
    build,
    build_image,
    build_packages,
    check_tag,
    extract,
    main,
    notes,
    pins,
    run,
    version,
    write_checksums,
)
from release.package_metadata import PackageMetadata

import gatepass
from release import locks

REPOSITORY = "https://git.corp.example/llm/gatepass"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build twice, which fails if a byte differs."""
    return build_packages("HEAD", REPOSITORY, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def metadata(packages: tuple[Path, Path]) -> Message:
    with zipfile.ZipFile(packages[0]) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(wheel.read(name))


def test_the_packages_are_named_by_the_version_of_the_code(packages):
    assert [file.name for file in packages] == [
        f"gatepass-{gatepass.__version__}-py3-none-any.whl",
        f"gatepass-{gatepass.__version__}.tar.gz",
    ]
    assert version(ROOT) == gatepass.__version__


def test_the_version_is_in_one_place():
    tracked = run("git", "ls-files", "pyproject.toml", "Dockerfile", "Makefile", "deploy", "src", "release").split()
    history = "src/gatepass/config/changes.py"
    texts = {file: Path(ROOT, file).read_text() for file in tracked if not file.endswith(".png") and file != history}
    of_helm = ["deploy/chart/Chart.yaml", "deploy/kubernetes.yaml"]  # tests/docs/test_chart.py compares them
    found = [file for file, text in texts.items() if gatepass.__version__ in text]
    assert found == [*of_helm, "src/gatepass/__init__.py"]


TAG = "HEAD" if ".dev" in gatepass.__version__ else f"v{gatepass.__version__}"


def test_metadata_names_the_repository_and_the_readme_has_no_relative_link(metadata):
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL", []))
    assert urls["Repository"] == REPOSITORY
    assert urls["Changelog"] == f"{REPOSITORY}/blob/{TAG}/CHANGELOG.md"
    readme = str(metadata.get_payload())
    assert f"]({REPOSITORY}/raw/{TAG}/docs/images/" in readme
    assert re.findall(r"\]\((?!https?://|#)[^)]*\)", readme) == []
    assert "REPOSITORY_URL" not in readme


@pytest.mark.parametrize("given", [REPOSITORY, f"{REPOSITORY}.git", f"{REPOSITORY}.git/"])
def test_pip_and_docker_get_the_url_with_git_and_links_the_one_without(given, monkeypatch):
    monkeypatch.setenv("GATEPASS_REPOSITORY", given)
    fields: dict[str, Any] = {}
    PackageMetadata(str(ROOT), {}).update(fields)
    assert fields["urls"]["Repository"] == REPOSITORY
    readme = fields["readme"]["text"]
    for command in (f'"git+{REPOSITORY}.git"', f'docker build -t gatepass:local "{REPOSITORY}.git"'):
        assert command in readme
    assert f"]({REPOSITORY}/blob/{TAG}/docs/tokens.md)" in readme
    assert ".git/" not in readme


@pytest.mark.parametrize(
    ("base", "reason"),
    [(None, ", because BASE is not set"), ("python:3.13-slim", ": podman not found: run `make e2e-system`")],
)
def test_without_base_nobody_asked_for_an_image(base, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("release.build.missing", lambda: "podman not found: run `make e2e-system`")
    monkeypatch.setenv("BASE", base) if base else monkeypatch.delenv("BASE", raising=False)
    build_image("HEAD", ROOT, "", tmp_path)
    assert capsys.readouterr().out == f"image: not built{reason}\n"


def test_metadata_is_what_installers_and_indexes_read(metadata):
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    # of 2024: an index that does not know a newer one rejects the upload
    assert metadata["Metadata-Version"] == "2.4"


def test_the_wheel_has_the_code_alone_and_one_command(packages):
    with zipfile.ZipFile(packages[0]) as wheel:
        names = wheel.namelist()
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        assert wheel.read(entry_points).decode().split() == ["[console_scripts]", "gatepass", "=", "gatepass.cli:main"]
    assert {name.partition("/")[0] for name in names} == {"gatepass", f"gatepass-{gatepass.__version__}.dist-info"}
    assert "gatepass/py.typed" in names


def test_the_wheel_has_the_files_of_the_page(packages):
    source = ROOT / "src"
    files = {
        path.relative_to(source).as_posix() for path in source.glob("gatepass/server/ui/static/**/*") if path.is_file()
    }
    with zipfile.ZipFile(packages[0]) as wheel:
        assert files <= set(wheel.namelist())
    assert "gatepass/server/ui/static/index.html" in files


def test_a_wheel_of_the_sdist_is_the_same_wheel_without_the_variable(packages, tmp_path):
    with tarfile.open(packages[1]) as sdist:
        sdist.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "again", cwd=source)
    built = zipfile.ZipFile(next((tmp_path / "again").iterdir()))
    released = zipfile.ZipFile(packages[0])
    assert {name: built.read(name) for name in built.namelist()} == {
        name: released.read(name) for name in released.namelist()
    }


def test_checksums_are_those_of_sha256sum(packages, tmp_path):
    file = write_checksums(packages)
    assert subprocess.run(["sha256sum", "--check", "--quiet", file.name], cwd=file.parent, check=False).returncode == 0


CHANGELOG = (
    "# Changelog\n\n## Unreleased\n\n- Next.\n\n## 0.2.0 (2027-03-01)\n\n### Added\n\n- New.\n\n"
    "## 0.1.0 (unreleased)\n\n- Old.\n"
)


def test_notes_are_the_section_of_the_version():
    assert notes(CHANGELOG, "0.2.0") == "### Added\n\n- New.\n"
    assert notes(CHANGELOG, "0.1.0") == "- Old.\n"
    assert notes(CHANGELOG, "0.3.0.dev0") == "- Next.\n"
    assert notes((ROOT / "CHANGELOG.md").read_text(), gatepass.__version__)
    with pytest.raises(ReleaseFailed, match=r"has no section 0\.3\.0"):
        notes(CHANGELOG, "0.3.0")


def test_a_tag_is_that_of_the_version_with_a_date():
    check_tag("v0.2.0", "0.2.0", CHANGELOG)
    with pytest.raises(ReleaseFailed, match=r"the tag v0\.2\.1 is not v0\.2\.0"):
        check_tag("v0.2.1", "0.2.0", CHANGELOG)
    with pytest.raises(ReleaseFailed, match="no heading"):
        check_tag("v0.1.0", "0.1.0", CHANGELOG)
    with pytest.raises(ReleaseFailed, match="no heading"):
        check_tag("v0.3.0.dev0", "0.3.0.dev0", CHANGELOG)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", PYTHONS)
def test_an_archive_of_wheels_has_every_pin_once_with_its_hashes(python, machine):
    lines = list(pins(ROOT, python, machine))
    names = [line.partition("==")[0] for line in lines]
    assert len(names) == len(set(names))
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {canonicalize_name(Requirement(each).name) for extra in optional for each in optional[extra]}
    assert {"uvloop", *wanted} - {"gatepass"} <= set(names)
    assert all(" --hash=sha256:" in line for line in lines)
    assert ("async-timeout" in names) == (python == "3.11")


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of this repository, which the release is built from."""
    folder = tmp_path / "clone"
    run("git", "clone", "--quiet", ROOT, folder)
    # of this checkout, whose last changes need not be committed
    monkeypatch.setattr("release.build.TOOLS", ("release/nothing",))
    monkeypatch.setattr("release.build.ROOT", folder)
    monkeypatch.setattr("release.locks.REQUIREMENTS", folder / "requirements")
    return folder


def test_an_extra_that_is_added_is_packed_and_named(clone, tmp_path):
    """And without its lock there is no release."""
    edit(clone / "pyproject.toml", lambda text: text.replace("\nall = [", '\nmore = ["later>=1"]\nall = ['))
    with pytest.raises(FileNotFoundError, match=r"extra-more\.txt"):
        list(pins(clone, "3.13", "x86_64"))
    (clone / "requirements/extra-more.txt").write_text(f"later==1.0 --hash=sha256:{'0' * 64}\n")
    assert f"later==1.0 --hash=sha256:{'0' * 64}" in [*pins(clone, "3.13", "x86_64")]
    assert locks.extras(clone)[-1] == "more"


def without_other_packages(*command: str | Path, **options: Any) -> str:
    """Stand for `run`: what pip would download is its list, and an SBOM is the pyproject.toml that it is made of."""
    words = [str(part) for part in command]
    given = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
    if words[0] in ("git", "tar") or "hatchling" in words:
        return run(*command, **options)
    if "download" in words:
        listed = Path(given["--requirement"]).read_bytes()
        Path(given["--dest"], f"{given['--python-version']}.txt").write_bytes(listed)
    if "--pyproject" in given:
        Path(given["--output-file"]).write_bytes(Path(given["--pyproject"]).read_bytes())
    return gatepass.__version__ if "--version" in words else ""


def test_what_is_not_committed_changes_no_byte_of_a_release(clone, tmp_path, monkeypatch):
    monkeypatch.setattr("release.build.run", without_other_packages)
    monkeypatch.setattr("release.build.missing", lambda: "the image is built of the same folder")

    def released(name: str) -> dict[str, bytes]:
        dist = tmp_path / name
        dist.mkdir()
        return {
            file.name: file.read_bytes() for file in build("HEAD", extract("HEAD", tmp_path / "in" / name), "", dist)
        }

    (tmp_path / "in").mkdir()
    clean = released("clean")
    assert len(clean) == 6
    assert b"uvicorn==" in clean[f"gatepass-{gatepass.__version__}-wheelhouse-linux-x86_64.tar"]
    edit(clone / "CHANGELOG.md", lambda text: text.replace("\n- ", "\n- Not committed: "))
    edit(clone / "requirements/runtime.txt", lambda text: re.sub("uvicorn==.*?( |$)", "uvicorn==0.0.1 ", text))
    edit(clone / "pyproject.toml", lambda text: text.replace("description = ", 'description = "Not committed." # '))
    edit(clone / "src/gatepass/__init__.py", lambda text: text.replace(gatepass.__version__, "9.9.9"))
    assert released("dirty") == clean


def edit(file: Path, change: Callable[[str], str]) -> None:
    before = file.read_text()
    file.write_text(change(before))
    assert file.read_text() != before


def release(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["release.build", *arguments])
    return main()


@pytest.mark.parametrize(
    ("verdict", "code", "files"),
    [
        (Verdict(True, False, "no advisory"), 0, ["SHA256SUMS", "new.txt"]),
        (Verdict(True, True, "an advisory"), 1, ["former.txt"]),
        (Verdict(False, False, "not scanned"), 1, ["former.txt"]),
    ],
)
def test_a_release_replaces_the_former_one_when_all_of_it_passed(clone, monkeypatch, verdict, code, files):
    def build_one_file(revision: str, source: Path, repository: str, dist: Path) -> tuple[Path, ...]:
        (dist / "new.txt").write_text(revision)
        return (dist / "new.txt",)

    monkeypatch.setattr("release.build.build", build_one_file)
    monkeypatch.setattr("release.audit.scan", lambda *names, **options: verdict)
    (clone / "dist").mkdir()
    (clone / "dist/former.txt").write_text("complete")
    assert release(monkeypatch, "--audited") == code
    assert sorted(file.name for file in (clone / "dist").iterdir()) == files
    assert list((clone / "build").iterdir()) == []


def test_changed_tools_of_the_release_are_committed_first(clone, monkeypatch, capsys):
    monkeypatch.setattr("release.build.TOOLS", ("release",))
    edit(clone / "release/build.py", lambda text: text + "# not committed\n")
    assert release(monkeypatch) == 1
    assert "release: commit the tools of the release" in capsys.readouterr().err
