"""Build the files of a release into dist/ from the commit that is checked out, and test them: `make release`.

A file that is not committed changes nothing of a release, and a release that fails leaves dist/ as it was.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from tests.e2e.container.engine import Engine, EngineFailed, missing

from release import audit, locks
from release.package_metadata import web_address

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
TOOLS = ("release", "requirements/release.txt", "tests/e2e/container")
"""The files that build a release. They run from the working tree."""
MACHINES = ("x86_64", "aarch64")
NEWEST_GLIBC = 28
"""The wheels of the archives run with glibc 2.28 and newer: Debian 10, RHEL 8."""

INSTALL = """\
gatepass {version} for Linux {machine}, CPython 3.11 to 3.14, glibc 2.28 and newer. No package index is needed.

    tar xf gatepass-{version}-wheelhouse-linux-{machine}.tar
    cd gatepass-{version}-wheelhouse-linux-{machine}
    python3 -m venv venv
    venv/bin/pip install --no-index --find-links wheels gatepass

With an extra: 'gatepass[valkey]'. The extras are {extras}.

    pipx install --pip-args="--no-index --find-links $PWD/wheels" gatepass
    uv tool install --offline --no-index --find-links wheels gatepass
"""


class ReleaseFailed(Exception):
    """A file of the release cannot be built, or does not pass its test."""


def run(
    *command: str | Path, cwd: Path | None = None, umask: int = -1, environment: Mapping[str, str] | None = None
) -> str:
    """Run a command, by default in the repository, and return its standard output.

    Raises ReleaseFailed with all of its output, or if this machine does not have the command.
    """
    words, variables = [str(part) for part in command], {**os.environ, **(environment or {})}
    if shutil.which(words[0], path=variables.get("PATH")) is None:
        raise ReleaseFailed(_not_found(Path(words[0])))
    done = subprocess.run(
        words, cwd=cwd or ROOT, umask=umask, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ReleaseFailed(f"{' '.join(words[:4])} … ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def _not_found(tool: Path) -> str:
    if tool.is_absolute():
        return f"{tool.name} not found in {tool.parent}: remove .release, and `make release` installs it again"
    return f"{tool} not found: install it, on Debian and Ubuntu with `apt-get install {tool}`"


def extract(revision: str, folder: Path, umask: int = -1) -> Path:
    """Write the committed files of `revision` into a new folder, and return it. Raises ReleaseFailed."""
    archive = folder.with_name(f"{folder.name}.tar")
    run("git", "archive", f"--output={archive}", revision)
    run("tar", "--extract", f"--file={archive}", f"--one-top-level={folder}", umask=umask)
    return folder


def version(source: Path) -> str:
    found = re.search(r'^__version__ = "(.+)"$', (source / "src/gatepass/__init__.py").read_text(), re.MULTILINE)
    if found is None:
        raise ReleaseFailed("src/gatepass/__init__.py has no __version__")
    return found[1]


def notes(changelog: str, number: str) -> str:
    """Return the section of a version, *Unreleased* of a `.dev` one. Raises ReleaseFailed if it is missing or empty."""
    section = "Unreleased" if ".dev" in number else number
    found = re.search(rf"^## {re.escape(section)}(?: [^\n]*)?\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if found is None or not found[1].strip():
        raise ReleaseFailed(f"CHANGELOG.md has no section {section}")
    return found[1].strip() + "\n"


def check_tag(tag: str, number: str, changelog: str) -> None:
    """Raise ReleaseFailed if `tag` is not the version, or if the section of the version has no date."""
    if tag != f"v{number}":
        raise ReleaseFailed(f"the tag {tag} is not v{number}, the version in src/gatepass/__init__.py")
    if not re.search(rf"^## {re.escape(number)} \(\d{{4}}-\d\d-\d\d\)$", changelog, re.MULTILINE):
        raise ReleaseFailed(f"CHANGELOG.md has no heading `## {number} (YYYY-MM-DD)`")


def build_packages(revision: str, repository: str, dist: Path) -> tuple[Path, Path]:
    """Build wheel and sdist twice, in other folders and with other permissions, and return those of the first build.

    Only committed files are built. Raises ReleaseFailed if the builds differ in a byte.
    """
    epoch = run("git", "log", "-1", "--format=%ct", revision).strip()
    builds: list[dict[str, bytes]] = []
    for umask, zone in ((0o022, "UTC"), (0o077, "Asia/Shanghai")):
        with tempfile.TemporaryDirectory() as folder:
            source = extract(revision, Path(folder) / f"source-{umask:o}", umask)
            environment = {"SOURCE_DATE_EPOCH": epoch, "TZ": zone, "GATEPASS_REPOSITORY": repository}
            run(
                sys.executable,
                "-m",
                "hatchling",
                "build",
                "-d",
                "out",
                cwd=source,
                umask=umask,
                environment=environment,
            )
            builds.append({file.name: file.read_bytes() for file in sorted((source / "out").iterdir())})
    if builds[0] != builds[1]:
        names = [name for name in builds[0] if builds[0][name] != builds[1].get(name)]
        raise ReleaseFailed(f"two builds differ: {', '.join(names)}")
    for name, content in builds[0].items():
        (dist / name).write_bytes(content)
    [wheel], [sdist] = dist.glob("*.whl"), dist.glob("*.tar.gz")
    return wheel, sdist


def pins(source: Path, python: str, machine: str) -> Iterator[str]:
    """Yield a line with hashes for each package that gatepass or one of its extras installs there."""
    requirements = source / "requirements"
    here = locks.environment(python, machine)
    found = {
        f"{pin.name}=={pin.version}": pin.hashes
        for lock in locks.released(source)
        for pin in locks.read(lock, requirements)
        if pin.applies(here)
    }
    for package, hashes in sorted(found.items()):
        yield " ".join([package, *(f"--hash={each}" for each in hashes)])


def build_wheelhouse(source: Path, wheel: Path, machine: str, epoch: int) -> Path:
    """Return an archive with the wheels of gatepass, its dependencies and its extras for all Pythons on `machine`."""
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(5, NEWEST_GLIBC + 1)]
    platforms.append(f"--platform=manylinux2014_{machine}")
    name = f"{'-'.join(wheel.name.split('-')[:2])}-wheelhouse-linux-{machine}"
    with tempfile.TemporaryDirectory() as folder:
        wheels = Path(folder) / name / "wheels"
        wheels.mkdir(parents=True)
        for python in PYTHONS:
            wanted = Path(folder) / f"{python}.txt"
            wanted.write_text("\n".join(pins(source, python, machine)))
            run(
                sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
                "--only-binary=:all:", *platforms, f"--python-version={python}", "--implementation=cp",
                f"--dest={wheels}", f"--requirement={wanted}",
            )  # fmt: skip
        shutil.copy(wheel, wheels)
        extras = ", ".join(locks.extras(source))
        text = INSTALL.format(version=version(source), machine=machine, extras=extras)
        (wheels.parent / "INSTALL.txt").write_text(text)
        target = wheel.parent / f"{name}.tar"
        with tarfile.open(target, "w") as archive:  # the wheels are compressed already
            archive.add(wheels.parent, name, filter=partial(_reproducible, epoch))  # sorts the members of a folder
    return target


def _reproducible(epoch: int, member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
    member.mode = 0o755 if member.isdir() else 0o644
    return member


def install_offline(archive: Path, number: str, python: str, extras: str, folder: Path) -> Path:
    """Install gatepass `number` into a new environment from the archive alone, and return the environment."""
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    environment, wheels = folder / f"venv-{Path(python).name}", folder / archive.stem / "wheels"
    run(python, "-m", "venv", environment)
    here = environment / "bin/python"
    run(
        *(here, "-m", "pip", "--isolated", "install", "--quiet"),  # no variable leads it to other wheels
        *("--no-index", f"--find-links={wheels}", f"gatepass{extras}"),
    )
    run(here, "-m", "pip", "check")
    if number not in run(environment / "bin/gatepass", "--version"):
        raise ReleaseFailed(f"{archive.name} does not install gatepass {number}")
    return environment


def pythons() -> Iterator[tuple[str, str]]:
    """Yield each supported Python that this machine runs: its command and its exact version."""
    for number in PYTHONS:
        command = f"python{number}"
        with suppress(ReleaseFailed):  # not here, or only the command of a version manager
            yield command, run(command, "-c", "import platform; print(platform.python_version())").strip()


def write_sbom(source: Path, archive: Path, epoch: int) -> Path:
    """Write what an installation without extras contains, in CycloneDX, with cyclonedx-bom."""
    number = version(source)
    target = archive.parent / f"gatepass-{number}.cdx.json"
    with tempfile.TemporaryDirectory() as folder:
        environment = install_offline(archive, number, sys.executable, "", Path(folder))
        run(environment / "bin/python", "-m", "pip", "uninstall", "--quiet", "--yes", "pip", "setuptools")
        # cyclonedx-bom leaves out a version that is dynamic
        project = Path(folder) / "pyproject.toml"
        project.write_text(
            (source / "pyproject.toml").read_text().replace("dynamic = [", f'version = "{number}"\ndynamic = [')
        )
        run(
            Path(sys.executable).with_name("cyclonedx-py"), "environment", environment, "--output-reproducible",
            "--spec-version=1.6", "--output-format=JSON", f"--output-file={target}",
            f"--pyproject={project}", "--mc-type=application",
            environment={"SOURCE_DATE_EPOCH": str(epoch)},
        )  # fmt: skip
    return target


def write_checksums(files: Sequence[Path]) -> Path:
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    return _written(files[0].parent / "SHA256SUMS", "".join(lines))


def _written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def main() -> int:
    parser = argparse.ArgumentParser(prog="make release", description=__doc__)
    parser.add_argument("--repository", default="", help="URL of the repository, for the README and the metadata")
    parser.add_argument("--tag", help="fail unless this is the tag of the version, and the changelog has its date")
    parser.add_argument("--audited", action="store_true", help="fail if no advisory service can be reached")
    options = parser.parse_args()
    try:
        release(options.repository, options.tag, audited=options.audited)
    except (ReleaseFailed, EngineFailed) as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    return 0


def release(repository: str, tag: str | None, *, audited: bool) -> None:
    """Build all files, and put them in the place of dist/ as the last step. Raises ReleaseFailed, EngineFailed."""
    if changed := run("git", "status", "--porcelain", "--", *TOOLS):
        raise ReleaseFailed(f"commit the tools of the release, which run as they are here:\n{changed}")
    if changed := run("git", "status", "--porcelain"):
        print(f"not in the release, because it is not committed:\n{changed}")
    revision = run("git", "rev-parse", "HEAD").strip()
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="release-") as folder:  # of one file system with dist/
        source, dist = extract(revision, Path(folder) / "source"), Path(folder) / "dist"
        if tag:
            check_tag(tag, version(source), (source / "CHANGELOG.md").read_text())
        dist.mkdir()
        files = build(revision, source, repository, dist)
        report(write_checksums(files), f"{len(files)} files; test with `sha256sum --check SHA256SUMS`")
        verdict = audit.scan(locks.released(source), requirements=source / "requirements")
        print(f"advisories: {verdict}")
        if verdict.found or (audited and not verdict.scanned):
            raise ReleaseFailed("the audit did not pass")
        if (ROOT / "dist").exists():
            (ROOT / "dist").rename(Path(folder) / "former")
        dist.rename(ROOT / "dist")


def build(revision: str, source: Path, repository: str, dist: Path) -> tuple[Path, ...]:
    """Write all files but the checksums into `dist`, test each of them, and return them.

    `source` holds the files of `revision`.
    """
    number = version(source)
    epoch = int(run("git", "log", "-1", "--format=%ct", revision))
    section = _written(dist / f"gatepass-{number}-notes.md", notes((source / "CHANGELOG.md").read_text(), number))
    report(section, "the section of CHANGELOG.md")
    wheel, sdist = build_packages(revision, repository, dist)
    report(wheel, "two builds have equal bytes")
    report(sdist, "two builds have equal bytes")
    archives = {machine: build_wheelhouse(source, wheel, machine, epoch) for machine in MACHINES}
    for machine, archive in archives.items():
        if machine != platform.machine():
            report(archive, f"all wheels of the locks; not installed, because this machine is {platform.machine()}")
            continue
        ran = []
        for command, exact in pythons():
            with tempfile.TemporaryDirectory() as folder:
                install_offline(archive, number, command, "[all]", Path(folder))
            ran.append(exact)
        report(archive, f"gatepass[all] installs without an index on Python {', '.join(ran)}")
    sbom = write_sbom(source, archives[platform.machine()], epoch)
    report(sbom, "valid CycloneDX 1.6 of an installation without extras")
    build_image(revision, source, repository, dist)
    return tuple(sorted(dist.iterdir()))


MOST_ADDED_BYTES = 25_000_000
STAND_IN = "localhost/"
"""Where the name of a base begins that was made on this machine."""


def build_image(revision: str, source: Path, repository: str, dist: Path) -> None:
    """Build the image of `revision` for this processor. Without a real base it is no file of the release."""
    if reason := missing():
        print(f"image: not built{f': {reason}' if 'BASE' in os.environ else ', because BASE is not set'}")
        return
    number, base_name = version(source), os.environ.get("BASE", "a stand-in for the base, because BASE is not set")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    store = Path(os.environ.get("CONTAINER_STORE") or cache / "gatepass" / "containers")
    labels = {"version": number, "revision": revision, "source": web_address(repository)}
    options = [f"--label=org.opencontainers.image.{name}={value}" for name, value in labels.items() if value]
    tag = f"localhost/gatepass:{number}"
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(store, Path(folder))
        base = engine.build(source, tag, *options)
        added_bytes = engine.added_bytes(tag, base)
        ran = engine.once(tag, "--version").stdout.strip()
        if ran != f"gatepass, version {number}" or added_bytes > MOST_ADDED_BYTES:
            raise ReleaseFailed(f"image: prints {ran!r}, and adds {added_bytes:,} bytes to its base")
        checks = f"adds {added_bytes:,} compressed bytes to {base_name}; runs read-only with any uid"
        if base.startswith(STAND_IN):
            print(f"image: not a file of the release; {checks}")
            return
        target = dist / f"gatepass-{number}-image-linux-{platform.machine()}.tar"
        engine.podman("save", "--quiet", "--format=oci-archive", f"--output={target}", tag, timeout_s=300)
    report(target, checks)


def report(file: Path, check: str) -> None:
    print(f"{file.name:<48} {file.stat().st_size:>11,} bytes  {check}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
