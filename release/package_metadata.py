"""Sets the README and the links of the package. Hatchling calls it for each build.

GATEPASS_REPOSITORY is the URL of the repository, with or without `.git`, which only a release knows. Without it the
package names no URL, and the README keeps its relative links.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PLACEHOLDER = "REPOSITORY_URL"
"""Stands in the README for the URL that pip and Docker clone, which ends in `.git`."""
_RELATIVE_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?![a-z]+:|#)([^)\s]+)\)")


class PackageMetadata(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        repository = web_address(os.environ.get("GATEPASS_REPOSITORY", ""))
        root = Path(self.root)
        readme = (root / "README.md").read_text(encoding="utf-8")
        if repository:
            found = re.search(r'^__version__ = "(.+)"$', (root / "src/gatepass/__init__.py").read_text(), re.MULTILINE)
            assert found is not None  # hatchling has read the version from there
            tag = "HEAD" if ".dev" in found[1] else f"v{found[1]}"
            readme = with_repository(readme, repository, tag)
            metadata["urls"] = {
                "Repository": repository,
                "Documentation": f"{repository}/blob/{tag}/docs/index.md",
                "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": readme}


def web_address(repository: str) -> str:
    """Return the URL as a browser opens it and links begin with it, without `.git`."""
    return repository.rstrip("/").removesuffix(".git")


def with_repository(readme: str, repository: str, tag: str) -> str:
    """Return the README with absolute links, because a package index has no file but the README."""
    return _RELATIVE_LINK.sub(
        lambda link: f"{link[1]}[{link[2]}]({repository}/{'raw' if link[1] else 'blob'}/{tag}/{link[3]})",
        readme.replace(PLACEHOLDER, f"{repository}.git"),
    )
