"""Sphinx configuration of the site. `make docs-site` builds it without a network; a warning is an error."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish

ROOT = Path(__file__).parents[1]
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "src/gatepass/__init__.py").read_text())

project = "gatepass"
author = "the gatepass authors"
release = version = VERSION[1] if VERSION else ""
extensions = ["myst_parser", "sphinx_copybutton"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4  # the anchors of GitHub, so that a link works there and here
myst_enable_extensions = ["deflist"]
html_theme = "furo"
html_title = f"gatepass {release}"
html_favicon = "icon.svg"
html_static_path = ["images", "site.css", "site.js"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_show_sphinx = False
html_copy_source = False
html_search_scorer = str(ROOT / "docs/search.js")
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True


PAIR = re.compile(r"(?=([\u4e00-\u9fff]{2}))")
"""Each two Chinese characters that follow each other: Chinese has no spaces between words."""
CHILDREN = {
    "clients/README": [
        "agents_and_mcp_hosts",
        "other_applications",
        "mcp",
        "clients/*",
        "concepts/profiles",
        "model_list",
    ],
    "ragflow": ["guides/ragflow_upstream"],
    "tokens": ["reference/credentials", "concepts/token_life"],
    "adaptations": ["concepts/learned_rules", "concepts/translation", "concepts/host_faults", "quirks"],
    "guides/traffic": ["guides/limits", "guides/queue"],
    "guides/replicas": ["operations/store", "scaling"],
    "container": ["kubernetes"],
    "operations/monitoring": ["guides/tracing"],
    "operations/run": ["operations/reload", "operations/tls"],
    "operations/ui": ["operations/ui_views"],
    "comparison": ["guides/replace_a_forwarder", "guides/from_litellm", "guides/from_one_api"],
    "architecture": ["decisions", "contributing", "extending", "release"],
    "security": ["concepts/security_model", "supply_chain"],
    "zh/index": [
        "zh/ragflow",
        "zh/symptoms",
        "zh/errors",
        "zh/getting_started",
        "zh/clients",
        "zh/other_applications",
        "zh/gateways",
        "zh/limits",
        "zh/learned_rules",
        "zh/mcp",
        "zh/agents_and_mcp_hosts",
        "zh/tokens",
        "zh/container",
        "zh/kubernetes",
        "zh/upgrade",
        "zh/monitoring",
        "zh/queue",
        "zh/ragflow_upstream",
        "zh/traffic",
        "zh/translation",
        "zh/ui",
        "zh/keys",
        "zh/callers",
        "zh/production",
        "zh/replicas",
        "zh/run",
        "zh/scaling",
        "zh/store",
        "zh/tls",
        "zh/tracing",
    ],
}
"""The pages below a page of docs/index.md. The sidebar shows them when their parent is open."""


class SearchOfErrors(SearchEnglish):
    """The index, with numbers such as 401 and pairs of Chinese characters. docs/search.js searches for them."""

    def split(self, text: str) -> list[str]:
        parts = re.findall(r"[\u4e00-\u9fff]+|[^\W\u4e00-\u9fff]+", text)
        return [pair for part in parts for pair in (PAIR.findall(part) or [part])]

    def word_filter(self, word: str) -> bool:
        return word not in self.stopwords


def add_children(_: Sphinx, name: str, source: list[str]) -> None:
    """Append the tree of a page's children, so that the page has no directive where it is read as plain Markdown."""
    if pages := CHILDREN.get(name):
        tree = "\n".join(f"/{page}" for page in pages)
        source[0] += f"\n\n```{{toctree}}\n:hidden:\n:glob:\n\n{tree}\n```\n"


INDEXED = {"reference/http": "## Headers that gatepass adds to a reply"}
"""Pages that explain headers, each with the section that a search for one of them opens."""


def add_index(_: Sphinx, name: str, source: list[str]) -> None:
    """Add index entries for the headers of gatepass that the page names, so that the search finds them there first."""
    if section := INDEXED.get(name):
        entries = ", ".join(f"! {name}" for name in sorted(set(re.findall(r"x-gatepass-[a-z]+", source[0]))))
        source[0] = source[0].replace(section, f"```{{index}} {entries}\n```\n\n{section}", 1)


def set_language(_: Sphinx, name: str, __: str, context: dict[str, object], ___: object) -> None:
    context["language"] = "zh" if name.startswith("zh/") else "en"


def setup(app: Sphinx) -> None:
    """Register the search, the children and the language of pages, and the index of headers."""
    app.add_search_language(SearchOfErrors)
    app.connect("source-read", add_children)
    app.connect("source-read", add_index)
    app.connect("html-page-context", set_language)
