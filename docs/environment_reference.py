"""Write the section of the environment variables. tests/docs/test_environment.py loads each example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from docs.entries import table

from gatepass.config.document import dotted, lookup
from gatepass.config.environment import LIMIT_VARIABLES
from gatepass.config.model import Limits
from gatepass.config.references import PREFIX, SECRET_VARIABLES


@dataclass(frozen=True)
class Variable:
    purpose: str
    example: str
    sets: str
    """The settings, as the page of the settings names them."""
    with_file: bool = False
    """Whether it is also used with a configuration file."""
    default: str = "unset"


def limit_variables() -> dict[str, Variable]:
    """Return the variable of each setting under `limits`."""
    found = {}
    for name, path in LIMIT_VARIABLES.items():
        setting, default = dotted(path), lookup(Limits().model_dump(), path[1:])
        anchor = setting.replace(".", "")
        purpose = f"The value of [`{setting}`](#{anchor})."
        shown = f"{default:g}" if isinstance(default, float) else str(default)
        example, stated = ("500", "unset") if default is None else (shown, f"`{shown}`, unless the file sets it")
        found[name] = Variable(purpose, example, f"`{setting}`", with_file=True, default=stated)
    return found


VARIABLES: Mapping[str, Variable] = {
    "UPSTREAM_URL": Variable(
        "The upstream for every model.", "https://llm.corp.example/v1", "`upstreams.chat.base_url`"
    ),
    "EMBEDDINGS_URL": Variable(
        "A second upstream for embeddings.", "https://vectors.corp.example/v1", "`upstreams.embeddings.base_url`"
    ),
    "TOKEN_TYPE": Variable(
        "`oauth2`, `http_json` or `static`. `GATEPASS_TOKEN`, `GATEPASS_TOKEN_JSON` and `GATEPASS_CLIENT_ID` each"
        " imply it. Without any of these, gatepass sends no token.",
        "oauth2",
        "`credentials.token.type`",
    ),
    "TOKEN_URL": Variable(
        "The token endpoint (oauth2) or the login (http_json).",
        "https://sso.corp.example/token",
        "`token_url` or `url` of the credential",
    ),
    "ISSUER": Variable(
        "For oauth2: the issuer, instead of `GATEPASS_TOKEN_URL`.",
        "https://sso.corp.example/realms/corp",
        "`issuer` of the credential",
    ),
    "CLIENT_ID": Variable("For oauth2: the client id.", "gatepass", "`client_id` of the credential"),
    "CLIENT_SECRET": Variable(
        "For oauth2: the client secret. oauth2 requires it.",
        "a-long-secret",
        "`client_secret` of the credential",
    ),
    "CLIENT_AUTH": Variable(
        "For oauth2: where the client secret is sent, `basic` (a header) or `form`. Default: `basic`.",
        "form",
        "`client_auth` of the credential",
    ),
    "SCOPE": Variable("For oauth2: scopes, separated by spaces.", "llm.read", "`scope` of the credential"),
    "TOKEN_JSON": Variable(
        "For http_json: the JSON body of the login.",
        '{"id": "bot", "key": "a-long-secret"}',
        "`json` of the credential",
    ),
    "TOKEN_PATH": Variable(
        "For http_json: the path of the token in the reply.", "data.token", "`reply.token` of the credential"
    ),
    "EXPIRES_PATH": Variable(
        "For http_json: the path of the lifetime or of the expiry time. The value decides which of them it is.",
        "data.expires_in",
        "`reply.expiry` of the credential",
    ),
    "EXPIRES_UNIT": Variable("For http_json: `s` or `ms`.", "ms", "`reply.unit` of the credential"),
    "TOKEN": Variable("For static: the key of the upstream.", "a-long-secret", "`token` of the credential"),
    "KEYS": Variable(
        "API keys of clients, separated by commas or white space. The callers are `key-1`, `key-2` and so on; the"
        " caller of the file is `keys-file`.",
        "a-key-of-32-characters-or-more-01",
        "`access.keys`",
    ),
    "KEY_HASHES": Variable(
        "Hashes from `gatepass keys new`, separated likewise. The callers are `hash-1`, `hash-2` and so on. Settings"
        " follow a hash: `sha256:…/name=grafana/role=viewer/profile=plain/expires=2027-01-31`. `+` separates"
        " [operations](../operations/keys.md#limit-the-operations-of-a-key), and `:` a method from its name:"
        " `sha256:…/operations=chat+GET:files`.",
        f"sha256:{'3f' * 32}/name=ragflow",
        "`access.keys`",
    ),
    "PROFILE": Variable(
        "The [profile](#profilesname) of all keys that name none. It requires keys.",
        "ragflow",
        "`access.keys[].profile`",
    ),
    "CA_FILE": Variable(
        "A file with the company's own CA, for every hop.", "/etc/ssl/corp.pem", "`network.ca_file`", with_file=True
    ),
    "PROXY": Variable(
        "The proxy of every hop, also as `http://user:password@host:port`. Percent-encode the user and password: `%40`"
        " for `@`, `%3A` for `:`, `%25` for `%`.",
        "http://proxy.corp.example:3128",
        "`network.proxy` and `network.proxy_auth`",
        with_file=True,
    ),
    "NO_PROXY": Variable(
        "Hosts that do not use the proxy, separated by commas.",
        ".corp.example,10.0.0.0/8",
        "`network.no_proxy`",
        with_file=True,
    ),
    "ALLOW_PLAIN_HTTP": Variable(
        "`true` accepts URLs with `http` beyond loopback, as in a compose network.", "true", "`allow_plain_http`"
    ),
    "HOST": Variable("The address to listen on.", "0.0.0.0", "`server.host`", with_file=True),  # noqa: S104 - an example
    "PORT": Variable("The port to listen on.", "9000", "`server.port`", with_file=True),
    "UI": Variable(
        "`true` serves the [page for operators](../operations/ui.md).", "true", "`server.ui`", with_file=True
    ),
    "CONTROL_SOCKET": Variable(
        "The control socket. Commands such as `gatepass reload` use the variable too.",
        "/run/gatepass/control.sock",
        "`server.control_socket`",
        with_file=True,
    ),
    **limit_variables(),
    "CONFIG": Variable(
        "The configuration file, which replaces the variables.", "/etc/gatepass.yaml", "none", with_file=True
    ),
    "KEY": Variable(
        "The API key that `gatepass doctor --url` sends to a running gatepass.",
        "gp-…",
        "none",
        with_file=True,
    ),
}
TITLE = """## Environment variables

Without a configuration file, as in a container, `GATEPASS_UPSTREAM_URL` makes the environment the configuration:

```sh
export GATEPASS_UPSTREAM_URL=https://llm.corp.example/v1
export GATEPASS_TOKEN_URL=https://sso.corp.example/token
export GATEPASS_CLIENT_ID=gatepass
export GATEPASS_CLIENT_SECRET_FILE=/run/secrets/client
export GATEPASS_KEYS_FILE=/run/secrets/keys
```

It has an upstream `chat` for every model, and one credential `token` for all upstreams. `gatepass check` prints the
result. Other settings, such as timeouts or several models, require a [file](../configuration.md).

- A value is literal: `$` is a dollar. An empty variable is unset.
- A variable `…_FILE` names a file with the value, for {SECRETS}. gatepass reads the file again when it changes. Setting
  both is an error.
- Any other `GATEPASS_` variable is an error, and with a file a warning, except those that Kubernetes sets for a
  service.
"""


def environment_section() -> str:
    """Return the section of the page of the settings."""
    of_file = {name: variable for name, variable in VARIABLES.items() if variable.with_file}
    others = {name: variable for name, variable in VARIABLES.items() if not variable.with_file}
    return f"""{TITLE.replace("{SECRETS}", ", ".join(f"`{PREFIX}{name}_FILE`" for name in sorted(SECRET_VARIABLES)))}
{table(HEAD, map(row, others, others.values()))}

### Variables that also work with a file

{table((*HEAD, "default"), ((*row(name, variable), variable.default) for name, variable in of_file.items()))}
"""


HEAD = ("variable", "what it does", "sets", "example")


def row(name: str, variable: Variable) -> tuple[str, str, str, str]:
    quote = "'" if set(variable.example) & set(' "') else ""
    return f"`{PREFIX}{name}`", variable.purpose, variable.sets, f"`{PREFIX}{name}={quote}{variable.example}{quote}`"
