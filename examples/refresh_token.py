#!/usr/bin/env python3
"""Print an access token for `type: exec`, and keep the refresh token, which each use replaces, in a file.

Usage: refresh_token.py FILE TOKEN_URL, with CLIENT_ID and, if the client has one, CLIENT_SECRET in the environment.
Write the first refresh token into FILE after a login. The folder of FILE must be writable.
"""

import fcntl
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request

REFUSED, OUTAGE = 77, 75  # gatepass waits longer after the first, so that no account is locked


def main(path: str, url: str) -> int:
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two uses of one token look like a theft: the issuer ends the login
        with open(path) as kept:
            form = {"grant_type": "refresh_token", "refresh_token": kept.read().strip()}
        form |= {name.lower(): os.environ[name] for name in ("CLIENT_ID", "CLIENT_SECRET") if name in os.environ}
        # Opened before the use: without a place for its successor the token must not be used.
        with open(os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as new:
            try:
                body = urllib.parse.urlencode(form).encode()
                with urllib.request.urlopen(url, body, timeout=8) as answer:  # noqa: S310 - the operator's own URL
                    reply = json.load(answer)
            except urllib.error.HTTPError as error:
                print(f"the issuer answered {error.code}: {error.read(500).decode(errors='replace')}", file=sys.stderr)
                return REFUSED if error.code in (400, 401, 403) else OUTAGE
            except (OSError, ValueError) as error:
                print(f"no token: {error}", file=sys.stderr)
                return OUTAGE
            if successor := reply.pop("refresh_token", ""):
                new.write(successor)
                new.flush()
                os.fsync(new.fileno())
                os.replace(f"{path}.new", path)  # a reader sees the old token or the new one, never a part
                folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
                os.fsync(folder)  # the token that was printed outlives a crash of the machine
        print(json.dumps(reply))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
