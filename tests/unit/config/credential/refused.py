"""A credential that is refused, with the messages that a person reads."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gatepass.config.document import dotted
from gatepass.config.model import Config
from gatepass.config.wording import explained_errors


def refused(**block: Any) -> dict[str, str]:
    """Return the problems of `credentials.c`, by the setting within it."""
    tree = {"upstreams": {"u": {"base_url": "https://x"}}, "credentials": {"c": block}}
    with pytest.raises(ValidationError) as caught:
        Config.model_validate(tree)
    return {
        dotted(path).removeprefix("credentials.c").removeprefix("."): text
        for path, text in explained_errors(caught.value, tree)
    }
