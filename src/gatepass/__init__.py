"""gatepass: one URL that keeps working in front of an LLM gateway with short-lived tokens.

The public API, for a host that embeds the gateway: `create_app`, `load_config`, `Config`, `drain`. Each is imported on
first use, because `gatepass --version` needs nothing of what they import.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatepass.config.model import Config
    from gatepass.server.app import create_app, drain, load_config

__all__ = ["Config", "create_app", "drain", "load_config"]

__version__ = "0.3.0.dev0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gatepass.server import app

    return getattr(app, name)
