"""What `apiKeyHelper` and `auth.command` run: `python -I token_helper.py TOKEN_URL CLIENT SECRET RESOURCE SCOPE FILE`.

It prints a token by client credentials, and appends a line to FILE.
"""

import json
import sys
import urllib.parse
import urllib.request


def fetch(url: str, client: str, secret: str, resource: str, scope: str) -> str:
    form = {"grant_type": "client_credentials", "resource": resource, "scope": scope}
    form |= {"client_id": client, "client_secret": secret}
    with urllib.request.urlopen(url, urllib.parse.urlencode(form).encode(), timeout=30) as reply:  # noqa: S310 - loopback
        token: str = json.load(reply)["access_token"]
    return token


if __name__ == "__main__":
    *given, file = sys.argv[1:]
    print(fetch(*given))
    with open(file, "a") as runs:
        runs.write("run\n")
