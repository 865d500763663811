"""docs/supply_chain.md: the licences are those of the locked packages, and the commands fit the release."""

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from docs.licences import PAGE, licence_of, needed, shown

from release import locks

TEXT = PAGE.read_text()
ROOT = Path(__file__).parents[2]
PERMISSIVE = {"0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "PSF-2.0"}


def test_each_package_that_users_install_has_the_licence_of_its_metadata() -> None:
    assert list(shown()) == list(needed())
    versions = {pin.name: pin.version for pin in locks.read("dev")}
    compared = 0
    for name, licence in shown().items():
        try:
            package = metadata(name)
        except PackageNotFoundError:
            continue  # only another Python needs it
        assert (package["Version"], licence_of(package)) == (versions[name], licence), name
        compared += 1
    assert compared >= len(shown()) - 2


def test_each_licence_is_permissive_but_those_that_the_page_names() -> None:
    others = {name for name, licence in shown().items() if not set(re.split(r" (?:OR|AND) ", licence)) <= PERMISSIVE}
    named = set(re.findall(r"except `([\w-]+)`", TEXT))
    assert others == named


def test_the_page_names_the_files_and_signatures_of_the_release() -> None:
    workflows = {name: (ROOT / f".github/workflows/{name}.yml").read_text() for name in ("release", "image")}
    assert "pypi_attestations sign dist/*.whl dist/*.tar.gz" in workflows["release"]
    assert "subject-checksums: dist/SHA256SUMS" in workflows["release"]
    assert "push-to-registry: true" in workflows["image"]
    released = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert f"gatepass-{released}-py3-none-any.whl" in TEXT
    assert set(re.findall(r"gatepass-(\d+\.\d+\.\d+)-", TEXT)) == {released}
    build = (ROOT / "release/build.py").read_text()
    assert '"--spec-version=1.6"' in build
