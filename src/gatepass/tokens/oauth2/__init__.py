"""OAuth 2.0 (RFC 6749) and what has grown around it: the grants that need nobody at a browser."""
