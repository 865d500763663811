"""OAuth 2.0 (RFC 6749) and what has grown around it: the grants that need nobody at a browser."""

from gatepass.tokens.oauth2.keepsake import FileKeepsake, Keepsake, MemoryKeepsake
from gatepass.tokens.oauth2.source import Oauth2Source

__all__ = ["FileKeepsake", "Keepsake", "MemoryKeepsake", "Oauth2Source"]
