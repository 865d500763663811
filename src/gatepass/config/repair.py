"""`upstreams.NAME.repair`: what is mended in an upstream's streams beside what is always."""

from __future__ import annotations

from typing import Literal

from gatepass.config.block import Block


class Repair(Block):
    """For upstreams known to need it: what a look at the first events cannot tell for sure."""

    cumulative: bool = False
    """Its events may repeat all of the text so far: cut them down to what is new."""
    one_id: bool = False
    """Give all chunks of a stream the first one's id."""
    without_choices: Literal["move", "keep", "drop"] = "move"
    """What is to become of chunks without choices that say something else: move it into the next chunk that has
    some, keep them as they are, or drop them."""
