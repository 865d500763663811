"""The loggers of vendors' libraries."""

from __future__ import annotations

import logging


def hush(*names: str) -> None:
    """Let these loggers and those below them say errors only, whatever the root's level is.

    At DEBUG and INFO the libraries print requests and what they sign; at WARNING a refusal in the issuer's
    own words, unmasked, which the FetchFailure tells as well.
    """
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
