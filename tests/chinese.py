"""The Chinese texts of the page at /ui, as src/gatepass/server/ui/static/zh.js has them."""

import json
import re
from pathlib import Path

STATIC = Path(__file__).parents[1] / "src/gatepass/server/ui/static"
ZH = STATIC.joinpath("zh.js").read_text()
FORMS = [re.compile(form, re.DOTALL) for form in re.findall(r"^  \[/(.+)/[is]*, \"", ZH, re.MULTILINE)]
"""The forms of English texts that the page has in Chinese. Python reads them as JavaScript does."""
TEXTS: dict[str, str] = json.loads(ZH.partition("TEXTS = ")[2].partition(";\n\n/**")[0])


def without_chinese(text: str) -> list[str]:
    """Return the sentences of `text` that the page shows in English to readers of Chinese."""
    if not text or text in TEXTS or any(form.match(text) or form.match(f"{text}.") for form in FORMS):
        return []
    sentences = re.split(r"(?<=\.) (?=[A-Z`])", text)
    return [text] if len(sentences) == 1 else [one for sentence in sentences for one in without_chinese(sentence)]
