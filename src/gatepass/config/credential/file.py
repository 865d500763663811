"""`type: file`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gatepass.config.credential.local import LocalCredential
from gatepass.config.credential.reply import ReplyPaths


class FileCredential(LocalCredential):
    """A token that somebody else keeps fresh in a file, such as Kubernetes a projected one."""

    type: Literal["file"]
    """Where the token comes from."""
    path: Annotated[str, Field(min_length=1)]
    """The file: the token as plain text, or JSON that holds it."""
    reply: ReplyPaths = ReplyPaths()
    """Where the token and its life stand in a JSON file."""
