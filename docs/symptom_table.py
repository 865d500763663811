"""What users see, its cause and the next command: the one table of faults.

docs/generate.py writes it to docs/symptoms.md, and the rows with `solution` to README.md. Links are relative to docs/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Symptom:
    """One row. `solution` is the cell of README.md: what gatepass does about it."""

    seen: str
    cause: str
    action: str
    solution: str = ""


WITHOUT = (
    Symptom(
        "`401`, `token expired` or `invalid token` every few minutes",
        "The client holds a token, and the token expires.",
        "Nothing. `gatepass token NAME` shows lifetime and refresh.",
        "keeps a valid token, and fetches a new one if the upstream rejects it early",
    ),
    Symptom(
        "sometimes a `403`, a login page, or a redirect to one",
        "The LLM gateway rejects an expired token without a 401.",
        "Nothing for a login page. For a 403, set [`rejection`](reference/configuration.md#upstreamsnamerejection).",
        "treats a login page as a rejected token, and a 403 if "
        "[`rejection`](reference/configuration.md#upstreamsnamerejection) names it",
    ),
    Symptom(
        '`{"code":102,"message":"…"}` with HTTP 200, or an empty answer',
        "The upstream hides an error in a 200.",
        "Follow the text. If it names a fault of the upstream, send it to the owner of the upstream.",
        "returns a 4xx or 5xx with the text",
    ),
    Symptom(
        "`'NoneType' object is not iterable`, `No generation chunks were returned`",
        "The upstream answered with an error or an empty stream, and the SDK read it as a reply.",
        "Read the error that the client now receives. `gatepass doctor MODEL --call` repeats it.",
        "returns an OpenAI error instead of an empty stream",
    ),
    Symptom(
        "`Unrecognized request argument supplied: drop_params`",
        "The client sends a parameter that the upstream does not support.",
        "Nothing. `gatepass learned` lists other parameters that gatepass leaves out.",
        "removes the parameter",
    ),
    Symptom(
        "`Unrecognized request argument supplied: images`",
        "The client sends pictures next to the conversation.",
        "Nothing. `x-gatepass-adapted` has the entry `images`.",
        "moves the images into the last user message",
    ),
    Symptom(
        "`stream does not support true with this model`",
        "The model cannot stream.",
        "Nothing. `gatepass learned --as-config` prints the permanent setting. If the error still comes, without "
        "`hop`, the client does not use gatepass: correct its base URL.",
        "[learns a rule](concepts/learned_rules.md), requests a whole reply and synthesizes the stream",
    ),
    Symptom(
        "`Error code: 400` without a text",
        "The upstream's error does not have OpenAI's format.",
        "Read `message`. `x-gatepass-tried` lists the changes that did not help.",
        "returns the upstream's text in an OpenAI error",
    ),
    Symptom(
        "`peer closed connection without sending complete message body (incomplete chunked read)`",
        "The upstream or a proxy closed the connection in the middle of a stream.",
        "`gatepass doctor MODEL --call`. Search the log for `upstream_closed`. If the request ended well there, a "
        "proxy between the client and gatepass closed the connection: raise its timeout.",
        "ends the stream with an error event",
    ),
    Symptom(
        "`JSONDecodeError` in the middle of a stream",
        "The upstream sends comments or keep-alives that the SDK cannot parse.",
        "Nothing. The [profile](concepts/profiles.md) of the key decides which keep-alives the client receives.",
        "removes or rewrites keep-alives that SDKs cannot parse",
    ),
    Symptom(
        "`CERTIFICATE_VERIFY_FAILED`, `unable to get local issuer certificate`",
        "The CA of your company signed the certificate, or a proxy replaces it.",
        "Set [`network.ca_file`](reference/configuration.md#networkca_file) of the upstream and of the credential: "
        "usually both require it. Without a configuration file, set `GATEPASS_CA_FILE`. In Compose, "
        "see [a CA of your company](container.md#a-proxy-or-a-ca-of-your-company). Then `gatepass doctor`.",
        "trusts your company's CA: set `network.ca_file`",
    ),
)
"""What clients show without gatepass. Each row is in README.md too."""

HOP = (
    Symptom(
        "`hop` is `client`", "The request is wrong, or its key.", "Read `message`. `gatepass route MODEL --key NAME`"
    ),
    Symptom("`hop` is `credential:NAME`", "gatepass has no token.", "`gatepass token NAME`"),
    Symptom(
        "`hop` is `upstream:NAME`", "The upstream failed or rejected the request.", "`gatepass doctor MODEL --call`"
    ),
    Symptom(
        "`hop` is `gatepass`", "gatepass is overloaded or stops, or has a bug.", "Search the log for the request id."
    ),
)

REQUEST = (
    Symptom(
        "`Connection error.`, `connection refused`, from another machine or a container",
        "gatepass does not run, or the URL names the wrong host. Without a container, gatepass listens on 127.0.0.1 "
        "only.",
        "In a container: `docker compose -f … ps`, see [start and container](symptoms.md#start-and-container). Without "
        "one: set keys and [`server.host: 0.0.0.0`](reference/configuration.md#serverhost). Then "
        "[`gatepass doctor --url URL`](operations/diagnose.md#from-a-clients-machine) on the client's machine.",
    ),
    Symptom(
        "`The api_key client option must be set`, `Missing credentials`, `Illegal header value`",
        "The SDK rejects an empty key and sends nothing.",
        "Enter the key, or any text if gatepass has no keys.",
    ),
    Symptom(
        "401 `invalid_api_key`: `The API key is not known to gatepass`",
        "The client's key is unknown or expired.",
        'Run `read -rs KEY`, and paste the key. Compare the start of `printf %s "$KEY" \\| sha256sum` '
        "with the column `KEY` of `gatepass keys list`. The hash is not the key.",
    ),
    Symptom(
        "401 `invalid token` or `token expired`, without `hop` in the error",
        "The client still has the URL of the LLM gateway: the request did not reach gatepass.",
        "Enter the base URL of gatepass for this model, such as `http://gatepass:8080/v1`, and the key of gatepass.",
    ),
    Symptom(
        "401 `upstream_auth`, `The upstream … does not accept the credential that gatepass sends`",
        "The upstream rejects new tokens. For a minute after that, gatepass fetches no other one for it.",
        "After a repair, `gatepass token --retry`. Else `gatepass token NAME`: correct `scope`, `audience` or "
        "`token_placement`.",
    ),
    Symptom(
        "403 `operation_not_allowed`",
        "The key does not allow the operation.",
        "`gatepass keys list`. Set the key's [`operations`](operations/keys.md#limit-the-operations-of-a-key).",
    ),
    Symptom(
        "403, hop `upstream:…`",
        "The upstream rejects the token or the request with 403.",
        "Read `error.upstream`. For a rejected token, set "
        "[`rejection`](reference/configuration.md#upstreamsnamerejection).",
    ),
    Symptom(
        "403 `forbidden_peer`, `forbidden_host`: `Without keys gatepass serves only requests to localhost`",
        "gatepass has no keys, and the request comes from a container or another machine.",
        "`gatepass keys new --name NAME`, and set [`access.keys`](reference/configuration.md#accesskeys).",
    ),
    Symptom(
        "404 `unknown_path`",
        "The client's base URL is wrong.",
        "The message has the right one: up to `/v1`, without `/chat/completions`. `/v1/v1` works too.",
    ),
    Symptom(
        "404 `model_not_found`",
        "No entry of `models` matches the name.",
        "`gatepass route MODEL`. Use a name that `GET /v1/models` lists, or add it under `models`.",
    ),
    Symptom(
        "403 `model_not_allowed`",
        "The key has `models`, and none of them matches the name.",
        "Add the name to `models` of the key, then `gatepass reload`.",
    ),
    Symptom(
        "404 `model_not_found` or `does not exist`, hop `upstream:…`",
        "The upstream has another name for the model.",
        "`gatepass doctor MODEL` lists its names. Correct the name in the client, or set "
        "[`models.NAME.name`](reference/configuration.md#modelsnamename).",
    ),
    Symptom(
        "429, hop `upstream:…`",
        "The upstream limits requests or tokens. gatepass relays its `retry-after`.",
        "Ask its owner for a higher limit. If it limits parallel requests, set "
        "[`max_connections`](reference/configuration.md#upstreamsnamemax_connections): more requests then wait "
        "up to `timeouts.connect_s`, and then get 503 `overloaded`.",
    ),
    Symptom(
        "a 400 that names a parameter, such as `Unknown parameter: 'x'`",
        "gatepass has no change for it, or the change did not help.",
        "`gatepass learned`. `x-gatepass-tried` lists the [changes](adaptations.md). Declare a rule at the top level "
        "of `gatepass.yaml`, for [all upstreams](reference/configuration.md#operationsname): "
        "`operations: {chat: {rules: {drop: [x]}}}`.",
    ),
    Symptom(
        "503 `token_unavailable`, `no token for credential …`, `next attempt in 30 s`, `/readyz` red",
        "The token endpoint failed or refused the client. After a refusal, gatepass asks again after 30 to 300 s.",
        "`gatepass status`: the last lines have the issuer's reason. After a repair there, run `gatepass reload`. "
        "After a new secret in Compose, run `docker compose -f … up -d --force-recreate` instead.",
    ),
    Symptom(
        "503 `overloaded`, 429 `concurrency_limited`",
        "A limit of gatepass is reached.",
        "The message names the [limit](operations/limits_and_memory.md).",
    ),
    Symptom(
        "502 `upstream_tls` or 503 `token_unavailable`, with `its certificate is signed by a CA that this machine does "
        "not trust`; doctor: `the certificate of … is self-signed`",
        "The CA of your company signed the certificate of the upstream or the token endpoint, or a proxy replaces it.",
        "Set `network.ca_file` of the part that `hop` names. Usually the upstream and the credential both require "
        "it. Without a configuration file, set `GATEPASS_CA_FILE` for both. In Compose, see "
        "[a CA of your company](container.md#a-proxy-or-a-ca-of-your-company). Then `gatepass doctor`.",
    ),
    Symptom(
        "502 `upstream_closed`: `closed the connection before its reply was complete`, or "
        "`The upstream ended its stream before the answer was complete`",
        "The upstream, or a proxy in front of it, closed the connection. In a stream, the status is 200 and the last "
        "event has the error.",
        "Check the upstream's log, and the timeouts of proxies in front of it.",
    ),
    Symptom(
        '`"code":"102"`, or another number, hop `upstream:…`',
        "The upstream's own error: gatepass keeps its code and text. RAGFlow uses 102 for most faults of a request.",
        "Follow `message`. [`error.upstream`](errors.md#the-error-object) has its other members, if there are any.",
    ),
    Symptom(
        '403 with `"code":"109"` or `API key is invalid!`, hop `upstream:…`',
        "RAGFlow rejects the API key that gatepass sends.",
        "Create a new key in RAGFlow, and write it to `deploy/secrets/ragflow_key`. Then "
        "`docker compose -f deploy/compose.ragflow_upstream.yaml up -d --force-recreate`.",
    ),
    Symptom(
        "404 `You don't own the chat …`, `The owner of this token has no such assistant in RAGFlow`",
        "`name` of the model is not the id of an assistant of this API key's owner.",
        "Set `name` of the model to the assistant's id, or to `agent:ID` for an agent. "
        "[The guide](guides/ragflow_upstream.md#start-gatepass-in-front-of-ragflow) lists the ids. If another user "
        "owns the assistant, use an API key of that user, and start gatepass again.",
    ),
    Symptom(
        "502 `upstream_redirect`, `upstream_html`: `answered 200 OK with an HTML page`",
        "The base URL leads to a web page, or the upstream asks for a login.",
        "If it worked before, ask the owner of the upstream. Else correct `base_url`: it ends with the version, such "
        "as `/v1`. Then `gatepass doctor MODEL --call`.",
    ),
    Symptom(
        "502 or 504, hop `upstream:…`",
        "The upstream failed, or a slow model exceeds a timeout.",
        "`gatepass show ID`: send the upstream's id to its owner. Raise `timeouts` of a slow model.",
    ),
    Symptom(
        "a CORS error in a browser",
        "The origin is not allowed.",
        "Read `reason` of the `OPTIONS` request in the log. Add the origin to "
        "[`cors_origins`](reference/configuration.md#profilesnamecors_origins).",
    ),
    Symptom(
        "no response, or one without `x-request-id`",
        "gatepass rejected the request head, or another server answered.",
        "Search the log for [`refused`](operations/logs.md#events).",
    ),
    Symptom(
        "the connection closes during an upload",
        "The error came before the client had sent everything.",
        "Read the access line.",
    ),
)

STREAM = (
    Symptom(
        "the first word is late",
        "The upstream is slow, or gatepass waited for a token.",
        "`gatepass show ID` shows where the [time](operations/inspector.md#find-the-cause-of-an-error) went.",
    ),
    Symptom(
        "a stream arrives in one piece",
        "A proxy buffers, or `x-gatepass-adapted` has `stream=synth`: the model cannot stream.",
        "Turn off the [buffers](operations/run.md#load-balancers) of the proxy.",
    ),
    Symptom(
        "a parameter has no effect",
        "gatepass left it out.",
        "Read `x-gatepass-adapted`. [Adaptations](adaptations.md) has the rules.",
    ),
)

TOKEN = (
    Symptom(
        "`no connection to …: connection refused`",
        "The host or the port is wrong, a proxy is required, or the token endpoint is down.",
        "Check `token_url` or `url`, and `network.proxy`. `gatepass doctor` tests each step.",
    ),
    Symptom(
        "`the issuer refused the client: … answered 401: invalid_client`",
        "The client id, the secret or the way to send it is wrong.",
        "Correct `client_id`, `client_secret` or `client_auth`, in `deploy/.env` `GATEPASS_CLIENT_ID` or "
        "`GATEPASS_CLIENT_AUTH`. In Compose, then run `docker compose -f … up -d --force-recreate`, also after a new "
        "secret.",
    ),
    Symptom(
        "`the URL is wrong: … answered 404`",
        "The path is not that of the token endpoint.",
        "Correct the path. The [table by product](tokens.md#by-product) has the usual forms.",
    ),
    Symptom(
        "`answered 200 with an HTML page (Sign in)`",
        "The URL leads to a login page for people.",
        "Ask for the token endpoint.",
    ),
    Symptom(
        "`answered without a token; the reply has data (jwt_token, …)`",
        "The token is in another member.",
        "Set `reply.token`, here to `data.jwt_token`.",
    ),
    Symptom(
        "`the environment variable CORP_SECRET is not set`",
        "The variable is set in another shell or container.",
        "Set it where gatepass runs.",
    ),
    Symptom(
        "`lifetime 240 s, from default_ttl_s, …`",
        "The token has no expiry that gatepass can read.",
        "Set `default_ttl_s` to its real lifetime.",
    ),
    Symptom(
        "`… returned a token for the audience account, and credentials.corp.audience is …`",
        "The `aud` of the JWT does not contain `audience`.",
        "Set `audience` to the one that the upstream requires, or remove it.",
    ),
)

AGENTS = (
    Symptom(
        "Claude Code: `There's an issue with the selected model`",
        "Claude Code reports any 404 so. Neither gatepass nor the upstream knows the model.",
        "Declare the model under `models`. `gatepass route MODEL --operation messages` prints its route.",
    ),
    Symptom(
        "Claude Code: `API Error: 400`, `The upstream has no such path`",
        "The upstream does not serve `/v1/messages`, and Claude Code sends nothing else. gatepass answers 400, because "
        "Claude Code reports any 404 as an unknown model.",
        "Use an upstream that serves it. `gatepass doctor MODEL --as claude-code` tests it.",
    ),
    Symptom(
        "Codex or Claude Code shows nothing for minutes, or only `Reconnecting…`",
        "gatepass has no token, such as after a wrong client secret. The program waits for each `retry-after`, which "
        "grows up to 300 s, before it shows the error.",
        "`gatepass status`: the last lines have the issuer's reason.",
    ),
    Symptom(
        "Codex: 403, `may not name objects that the upstream stores for all callers`",
        "The request continues a stored response or names a file, and gatepass has several callers.",
        "Read the member that the message names. "
        "[`operations`](operations/keys.md#limit-the-operations-of-a-key) opens it. `gatepass doctor MODEL --as codex "
        "--key NAME` checks the usual request.",
    ),
    Symptom(
        "Codex: `exceeded retry limit, last status: 429 Too Many Requests`",
        "The upstream answered each retry with 429. Codex does not show its text.",
        "`gatepass show ID` with the id that Codex prints. Ask the owner of the upstream for a higher limit.",
    ),
    Symptom(
        "Codex: `stream disconnected before completion`",
        "The upstream failed in a started stream. The words behind it are its error.",
        "Search the log for the request. See [Codex](clients/codex.md#known-limits).",
    ),
    Symptom(
        "Codex: 404 of `/v1/responses`",
        "The upstream does not serve the Responses API, and Codex sends nothing else.",
        "Use an upstream that serves it.",
    ),
    Symptom(
        "`tools[0].strict` or `tools.0.strict`: `Expected boolean, received null`",
        "LibreChat sends `strict: null` in tools.",
        "Set `profile: librechat` on the key.",
    ),
    Symptom(
        "another 400 that names `strict` of a tool",
        "Agents such as openai-agents send `strict: false` or `true` in each tool, and the upstream rejects it.",
        "Nothing if `gatepass learned` lists a rule for `strict`. Otherwise set, at the top level of "
        "`gatepass.yaml` and for [all upstreams](reference/configuration.md#operationsname), "
        '`operations: {chat: {rules: {drop: ["tools[].strict", "tools[].function.strict"]}}}`. For the Responses API, '
        "write `responses` instead of `chat`.",
    ),
    Symptom(
        "openai-agents: 404 of `/v1/responses`",
        "The SDK uses the Responses API by default, and the upstream does not serve it.",
        "Use `OpenAIChatCompletionsModel`: see the [example](agents_and_mcp_hosts.md#agents).",
    ),
    Symptom(
        "OpenCode shows nothing for a minute or longer",
        "It repeats a request that failed with a 429, a 5xx or a broken stream.",
        "`gatepass tail --caller NAME --failed` shows the failed requests of its key.",
    ),
    Symptom(
        "`extra_forbidden` for a member of `tools`",
        "The client adds members to tools, such as Cherry Studio.",
        "Set its [profile](clients/README.md) on the key.",
    ),
    Symptom(
        "an MCP tool ends after a time that is always the same",
        "The host limits the time of its MCP tools.",
        "Raise the limit of the host. If gatepass serves the server, `gatepass tail` shows the time of each call.",
    ),
)

MCP = (
    Symptom(
        "an error of JSON-RPC with `hop` `credential:NAME`",
        "gatepass has no token for the MCP server.",
        "`gatepass token NAME`",
    ),
    Symptom(
        "an error of JSON-RPC with `hop` `upstream:mcp/NAME`",
        "The MCP server failed, or rejected the token or the message.",
        "`gatepass doctor --mcp NAME`",
    ),
    Symptom(
        "404, `Not Found`, for `/mcp`, `/v1/mcp/NAME` or `/mcp/NAME/mcp`",
        "gatepass serves an MCP server at `/mcp/NAME`: without `/v1`, and with nothing behind the name.",
        "Enter the URL that `gatepass doctor --mcp NAME` prints.",
    ),
    Symptom(
        "a tool is missing from the list of tools",
        "`mcp` of the key does not list it, or the server does not offer it.",
        "`gatepass doctor --mcp NAME` lists the tools of the server, and says which keys may use it.",
    ),
    Symptom(
        "error `mcp_server_not_allowed`: `may not use the MCP server`",
        "The key has `mcp` without this server, or `models` or `operations` without `mcp`.",
        "Add the server to [`mcp`](mcp.md#keys) of the key, then `gatepass reload`.",
    ),
    Symptom(
        "the client opens a browser, or begins a login",
        "It received a 401: the key of gatepass is missing or wrong, or its URL is that of the server itself.",
        "Enter the URL and the header that `gatepass doctor --mcp NAME` prints.",
    ),
    Symptom(
        "404 `mcp_session_not_found`, `Session not found`",
        "The MCP server or gatepass was restarted, or another caller opened the session.",
        "Nothing: most clients begin a new session. Otherwise connect the client again. Several gatepass share "
        "sessions only through a [store](operations/store.md).",
    ),
    Symptom(
        "a call of a tool fails with 502 and was not repeated",
        "The connection to the server failed, and the tool may have run.",
        "If it may run twice, list the tool under [`repeat`](reference/configuration.md#mcpnamerepeat).",
    ),
)

RAGFLOW = (
    Symptom(
        "`Fail to access model` when you save a model, or `Connection error.`",
        "RAGFlow does not reach gatepass, or the text that follows has the reason.",
        "Base url is `127.0.0.1` or `localhost`: enter `http://gatepass:8080/v1`. gatepass does not run: "
        "`docker compose -f … ps`, see [start and container](symptoms.md#start-and-container). Then test from "
        "RAGFlow's network: `docker run --rm -it --network docker_ragflow gatepass:local doctor --url "
        "http://gatepass:8080/v1 MODEL --call`",
    ),
    Symptom(
        "`Fail to bind embedding model`",
        "RAGFlow cannot use the embedding model for a document. The text after the colon has the reason.",
        "Search this page for that text. Then run the command of the row above with `--operation embeddings`.",
    ),
    Symptom(
        "`**ERROR**: INVALID_REQUEST`, also with `Unrecognized request argument`",
        "Without `hop` in the text, this model has the URL of the LLM gateway: its requests do not reach gatepass.",
        "Without `hop`: enter `http://gatepass:8080/v1` as Base url, and the key of gatepass. With `hop`: see "
        "[requests](symptoms.md#requests).",
    ),
    Symptom("`Missing credentials`", "The API-Key is empty.", "Enter the key of gatepass."),
    Symptom(
        "`Completions.create() got an unexpected keyword argument 'images'`",
        "RAGFlow's own SDK fails at a picture in a chat before it sends a request.",
        "Add the model again as **image2text**, or under the provider **OpenAI** with gatepass as base URL.",
    ),
    Symptom(
        "`'NoneType' object has no attribute 'total_tokens'`, `list index out of range`",
        "RAGFlow's vision class requires usage and choices in chunks where the upstream has none.",
        "Set `profile: ragflow` on the key.",
    ),
    Symptom(
        "an answer that ignores the picture",
        "RAGFlow's chat class drops pictures in streams.",
        "the same",
    ),
    Symptom(
        "`Object of type bytes is not JSON serializable`",
        "The providers that use LiteLLM fail at picture files.",
        "Use **image2text**.",
    ),
    Symptom(
        "401 with LocalAI, LM-Studio or HuggingFace",
        "These providers do not send your key.",
        "See [fixed keys](ragflow.md#fixed-keys).",
    ),
    Symptom(
        "404 for embeddings or rerank",
        "Several of RAGFlow's classes remove the path of the base URL.",
        "Serve gatepass at the root of a host and port, without `server.base_path`. Select the profile by the key.",
    ),
    Symptom("`No models found for provider`", "The model list is empty.", "Add `models`."),
    Symptom(
        "a wrong type in the model list",
        "RAGFlow guesses the type from the name.",
        "See [model types](ragflow.md#model-types).",
    ),
    Symptom(
        "The model cannot be added: timeout",
        "The model needs more than 10 s.",
        "Increase `LLM_TIMEOUT_SECONDS` of RAGFlow.",
    ),
    Symptom(
        "poor ranks for long documents",
        "RAGFlow shortens texts to 500 tokens for a rerank, and to 8191 for an embedding.",
        "Use smaller chunks.",
    ),
    Symptom(
        "an empty answer",
        "The model returned no text.",
        "See the metric `gatepass_empty_answers_total`.",
    ),
    Symptom(
        "an error class that does not fit, such as `AUTH_ERROR`",
        "RAGFlow guesses the class from words in the text.",
        "Read the text, or the access log.",
    ),
)

PROCESS = (
    Symptom(
        "`Restarting` in `docker compose -f … ps`",
        "gatepass ends with exit code 2, and Docker starts it again. The cause is a wrong value or secret.",
        "`docker compose -f … logs gatepass` has the reason. Correct it, then "
        "`docker compose -f … up -d --force-recreate`.",
    ),
    Symptom(
        "a new secret has no effect",
        "The container still has the old file, and `up -d` does not compare the content of a secret.",
        "`docker compose -f … up -d --force-recreate`",
    ),
    Symptom(
        "exit code 2, `is not a setting; did you mean …?`",
        "The configuration is not valid.",
        "`gatepass check` lists every problem with its line.",
    ),
    Symptom(
        "exit code 3, `cannot listen on …: Address already in use`",
        "Another program, or another gatepass, uses the port.",
        "Set [`server.port`](reference/configuration.md#serverport), or stop the other program.",
    ),
    Symptom(
        "exit code 3, `Name or service not known` or `Cannot assign requested address`",
        "`server.host` is not an address of this machine.",
        "Set [`server.host`](reference/configuration.md#serverhost) to `127.0.0.1`, or `0.0.0.0` for other machines.",
    ),
    Symptom(
        "`network docker_ragflow declared as external, but could not be found`",
        "RAGFlow does not run, or its network has another name.",
        "Start RAGFlow first, or set `RAGFLOW_NETWORK`.",
    ),
    Symptom(
        "`/run/secrets/… cannot be read: Permission denied`",
        "The user of the container cannot read the file.",
        "`sudo chown 65532 deploy/secrets/client_secret`, for a JSON login `deploy/secrets/login`. Then "
        "`docker compose -f … up -d --force-recreate`. If that does not help, see "
        "[SELinux and rootless Docker](container.md#selinux-and-rootless-docker).",
    ),
    Symptom(
        "`GATEPASS_KEY_HASHES: begins with its own name`",
        "The printed line was pasted behind `GATEPASS_KEY_HASHES=`.",
        "Replace the whole line in `deploy/.env` by the printed one.",
    ),
    Symptom(
        "another gatepass stops at `up -d`",
        "All Compose files have the project `gatepass`, and each replaces the gatepass of the others.",
        "Use one gatepass for all clients: see [both directions](guides/ragflow_upstream.md#both-directions).",
    ),
    Symptom(
        "`docker build` fails: `CERTIFICATE_VERIFY_FAILED` or no connection",
        "The build requires a proxy, or a CA of your company.",
        "See [build behind a proxy](container.md#build-behind-a-proxy-or-a-mirror).",
    ),
    Symptom(
        "RAGFlow cannot resolve `gatepass`",
        "gatepass does not run, or gatepass and RAGFlow share no network.",
        "`docker compose -f … ps`: if it shows `Restarting`, see its row. If gatepass runs, "
        "`docker network inspect docker_ragflow` must list both.",
    ),
    Symptom(
        "no page answers, the process is idle",
        "The pipe of the log is full.",
        "Repair the program that reads the log.",
    ),
    Symptom(
        "exit code 137",
        "The kernel killed the process above its memory limit.",
        "Raise the [memory limit](operations/limits_and_memory.md#memory). See `bytes_in` and `bytes_out` in the log.",
    ),
)

GROUPS: Mapping[str, tuple[str, tuple[Symptom, ...]]] = MappingProxyType(
    {
        "Without gatepass": (
            "Put [gatepass](getting_started.md) between client and LLM gateway. The last column is what then remains.",
            WITHOUT,
        ),
        "An error from gatepass": ("[`hop`](errors.md) names the part that failed.", HOP),
        "Requests": ("The client talks to gatepass, and fails.", REQUEST),
        "Streams": ("The answer arrives, but not as expected.", STREAM),
        "Tokens": ("`gatepass token`, `gatepass doctor` or the log prints this.", TOKEN),
        "Agents and MCP hosts": (
            (
                "An agent or an MCP host shows this. [SDKs, agents and MCP hosts](agents_and_mcp_hosts.md) tests a "
                "call of a tool, and has the lines of a [script](agents_and_mcp_hosts.md#openai-sdks)."
            ),
            AGENTS,
        ),
        "MCP servers": (
            "A client of a server [behind gatepass](mcp.md) shows this. `data` of the error has `hop` and `action`.",
            MCP,
        ),
        "RAGFlow": (
            "gatepass corrects unsupported parameters, streams and replies ([quirks](quirks.md)). These remain.",
            RAGFLOW,
        ),
        "Start and container": ("gatepass does not start, or ends.", PROCESS),
    }
)
"""The sections of the page: the sentence below the heading, and the rows."""

TITLE = """# Symptoms

This page is for everyone who sees an error. Search it for the words of the error: each row has the cause and the next
command.

With Docker Compose, write `docker compose -f … exec gatepass` before each `gatepass` command, with your file, such as
`deploy/compose.ragflow.yaml`. Without a configuration file, the credential's NAME is `token`.
"""


def rows(group: tuple[Symptom, ...]) -> Iterator[str]:
    yield "| you see | cause | next command or setting |\n|---|---|---|"
    yield from (f"| {row.seen} | {row.cause} | {row.action} |" for row in group)


def symptoms_page() -> str:
    """Return the page docs/symptoms.md."""
    sections = [f"## {title}\n\n{text}\n\n" + "\n".join(rows(group)) for title, (text, group) in GROUPS.items()]
    return TITLE + "\n" + "\n\n".join(sections) + "\n"


def readme_table() -> str:
    """Return the table of README.md."""
    shown = [row for _, group in GROUPS.values() for row in group if row.solution]
    lines = [f"| {row.seen} | {row.solution} |" for row in shown]
    return "\n".join(["| you see | gatepass |\n|---|---|", *lines]).replace("](", "](docs/")
