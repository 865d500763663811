"""The page shows the published figures, and names the missed bars and everything that was not measured."""

import json

from bench.page import markdown
from bench.paths import PAGE, PUBLISHED

LAST_RUN = json.loads(PUBLISHED.read_text())


def test_the_page_shows_the_published_figures() -> None:
    """After a change of a text: `python -m bench.page`."""
    assert PAGE.read_text() == markdown(LAST_RUN)
