"""Every event of the log: its level, its cause, its fields and what to do. `docs.generate` writes the page from it.

The calls that log an event have its name as a literal. tests/docs/test_reference.py compares them with this list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Level = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class LogEvent:
    """`cause` is when gatepass logs it, `fields` names its own fields, `action` is what the operator does."""

    level: Level
    cause: str
    fields: str
    """Separated by spaces."""
    action: str = "nothing"


_PLACE = "through key_prefix key_id"
_RULE = "id upstream model operation adapted evidence"
_RELOAD = "file trigger"

EVENTS: Mapping[str, LogEvent] = MappingProxyType(
    {
        "request": LogEvent(
            "info",
            "One line for each request, the access line. The level is `warning` for a 5xx, and for a response"
            " that broke off after its head: it has `status` 200 and `outcome` `error`.",
            "id method path operation caller key_id user_agent model upstream upstream_model status outcome attempts"
            " duration_s ttft_s bytes_in bytes_out usage",
            "search for `code` in docs/reference/errors.md if `outcome` is `error`",
        ),
        "refused": LogEvent(
            "info",
            "gatepass closed an idle connection to make room, rejected a request head that is too large, too"
            " slow or not HTTP, or rejected further requests without a valid key. The first one of a code is"
            " logged at once; those of the next second share one line. Without a valid key, the first one of"
            " each address is an access line. The level is `warning` for a 5xx.",
            "status code hop reason peer peers count",
            "search for `code` in docs/reference/errors.md",
        ),
        "log_lines_dropped": LogEvent(
            "warning",
            "`count` lines are missing here, because no process read the log and its queue was full, or"
            " because the log could not be written.",
            "count",
            "check the program that reads stderr, and the space on its disk",
        ),
        "request_failed": LogEvent(
            "error",
            "A bug in gatepass failed a request.",
            "trace",
            "report the bug with the traceback",
        ),
        "model_list_failed": LogEvent(
            "error",
            "A bug in gatepass failed a model list for which no client waited, or that gatepass could not send.",
            "upstream trace",
            "report the bug with the traceback",
        ),
        "starting": LogEvent(
            "info",
            "gatepass starts.",
            "version configuration upstreams credentials keys held_bytes held_bytes_of mcp",
        ),
        "listening": LogEvent(
            "info",
            "gatepass accepts connections.",
            "url page",
        ),
        "cannot_listen": LogEvent(
            "error",
            "gatepass cannot listen at its address or at its control socket. The exit code is 3.",
            "address reason used_by",
            "end the other program, or set another port (`--port`, `server.port`) or `server.control_socket`",
        ),
        "no_control_socket": LogEvent(
            "warning",
            "gatepass serves without a control socket, so that `gatepass reload` and `gatepass status` do not work.",
            "path reason",
            "make the directory writable, or change `server.control_socket`",
        ),
        "configuration_found": LogEvent(
            "info",
            "gatepass uses `./gatepass.yaml`, because no option and no variable names a file.",
            "file",
        ),
        "configuration_warning": LogEvent(
            "warning",
            "A warning that `gatepass check` prints too: at the start, in each worker, and after a reload if"
            " it is new.",
            "warning",
            "follow the sentence",
        ),
        "configuration_unusable": LogEvent(
            "error",
            "A worker, or `gatepass serve --log-format`, cannot use the configuration.",
            "file problems",
            "correct each problem",
        ),
        "capture_started": LogEvent(
            "info",
            "An operator keeps the bodies of requests in memory. Without `model` and `caller`, those of all requests.",
            "model caller for_s",
            "run `gatepass capture --stop` as soon as the fault is found: prompts are personal data",
        ),
        "capture_ended": LogEvent(
            "info",
            "gatepass keeps no bodies of requests any more, and has dropped those that it held.",
            "model caller ended_by captured",
        ),
        "descriptors_short": LogEvent(
            "warning",
            "The soft limit of file descriptors is too low for `limits.connections`.",
            "warning",
            "raise the limit (`ulimit -n`), or lower `limits.connections`",
        ),
        "descriptors_exhausted": LogEvent(
            "warning",
            "gatepass could not accept connections, because no file descriptor was free.",
            "limit needed",
            "raise the limit (`ulimit -n`), or lower `limits.connections`",
        ),
        "reloaded": LogEvent(
            "info",
            "A reload of the configuration succeeded. `changed` is empty if nothing changed. `retried` names"
            " failing credentials that fetch now.",
            f"{_RELOAD} changed",
        ),
        "retried": LogEvent(
            "info",
            "`gatepass token --retry` let the failing credentials in `retried` fetch now.",
            "trigger retried",
        ),
        "restart_needed": LogEvent(
            "warning",
            "A reload contains settings that only a restart changes. All other changes are in use.",
            f"{_RELOAD} settings",
            "restart gatepass",
        ),
        "page_action": LogEvent(
            "info",
            "A caller signed in at the page for operators, signed out, or ran one of its actions.",
            "action caller role peer model of_caller for_s id new_id without upstream operation adapted forgotten call",
        ),
        "reload_refused": LogEvent(
            "error",
            "The new configuration is invalid, or a watched file may be half written. The previous one continues.",
            f"{_RELOAD} problems",
            "correct each problem and reload again; if a complete file waits, run `gatepass reload`",
        ),
        "reload_failed": LogEvent(
            "error",
            "A bug in gatepass failed a reload. The previous configuration continues.",
            "trace",
            "report the bug with the traceback",
        ),
        "observer_failed": LogEvent(
            "error",
            "A bug in an observer of requests, such as the access log. The request is not affected.",
            "observer trace",
            "report the bug with the traceback",
        ),
        "unready": LogEvent(
            "info",
            "A stop began, and `/readyz` returns 503. gatepass still accepts requests for `server.drain_delay_s`.",
            "delay_s in_flight",
        ),
        "draining": LogEvent(
            "info",
            "gatepass accepts no new request and waits for running ones.",
            "bound_s in_flight",
        ),
        "drained": LogEvent(
            "info",
            "A stop ends.",
            "streams_ended",
            "raise `server.drain_timeout_s` if it ends streams",
        ),
        "worker_started": LogEvent(
            "info",
            "The supervisor started a worker.",
            "worker pid",
        ),
        "worker_exited": LogEvent(
            "error",
            "A worker ended, and the supervisor starts another one.",
            "worker code again_in_s",
            "read the lines of this worker before it; code -9 often means that memory was short",
        ),
        "worker_killed": LogEvent(
            "warning",
            "A worker did not stop in time, and the supervisor killed it.",
            "worker",
            "report it",
        ),
        "workers_reloading": LogEvent(
            "info",
            "The supervisor passed a SIGHUP on to its workers.",
            "workers",
        ),
        "worker_unresponsive": LogEvent(
            "warning",
            "A worker did not answer for `/metrics` or `/status`, so that its part is missing.",
            "silent reason",
            "look at the worker if it happens again",
        ),
        "tokens_not_shared": LogEvent(
            "warning",
            "The workers cannot share tokens, so that each fetches its own.",
            "reason",
            "mount shared memory, or configure a `store`",
        ),
        "limits_counted_alone": LogEvent(
            "warning",
            "The system had stopped a worker inside the lock of the limits. The others continue without the lock"
            " meanwhile. Logged once a minute at most.",
            "",
            "give gatepass more CPU if it happens often",
        ),
        "limits_not_shared": LogEvent(
            "warning",
            "The workers cannot share the counts of a limit, so that each counts alone.",
            "reason",
            "make room in shared memory",
        ),
        "limits_without_store": LogEvent(
            "warning",
            "The store does not count the limits of use any more. `store.on_store_failure` decides until it does.",
            "reason",
            "do what `reason` says",
        ),
        "limits_with_store": LogEvent("info", "The store counts the limits of use again.", ""),
        "limits_record_damaged": LogEvent(
            "warning",
            "The store has a record of limits that cannot be read. It begins again, and others are kept.",
            "of",
            "find out what else writes under `store.key_prefix`",
        ),
        "limits_task_failed": LogEvent(
            "error",
            "A bug ended the task that counts limits in the store. It starts again.",
            "",
            "report it with its trace",
        ),
        "sharing_tokens": LogEvent(
            "info",
            "gatepass starts and shares the tokens of credentials.",
            f"{_PLACE} credentials",
        ),
        "store_available": LogEvent(
            "info",
            "The shared store works again.",
            _PLACE,
        ),
        "store_task_failed": LogEvent(
            "error",
            "A background task of the shared store ended because of a bug. It begins again within 3 s.",
            _PLACE,
            "report the traceback",
        ),
        "store_unavailable": LogEvent(
            "warning",
            "gatepass cannot read or write the shared store. It continues with its own tokens.",
            f"{_PLACE} reason",
            "follow the reason; see docs/operations/store.md#a-store-that-does-not-share",
        ),
        "store_unreadable": LogEvent(
            "warning",
            "The store works, but the other processes use another encryption key.",
            f"{_PLACE} reason",
            "give all processes the same `store.encryption_key`",
        ),
        "store_emptied": LogEvent(
            "warning",
            "The shared store lost its data. gatepass fetches tokens again.",
            f"{_PLACE} reason",
            "check the memory limit and the persistence of the server",
        ),
        "token_fetched": LogEvent(
            "info",
            "gatepass fetched a token.",
            "credential took_s lifetime_s kind lifetime_source",
        ),
        "token_fetch_failed": LogEvent(
            "warning",
            "gatepass could not fetch a token. The same failure is logged once a minute.",
            "credential took_s reason definite times",
            "run `gatepass token NAME`",
        ),
        "token_ended_early": LogEvent(
            "warning",
            "An upstream accepted a token and rejects it long before its announced end. Logged once a minute.",
            "credential upstream age_s lifetime_s",
            "check `reply.unit` of the credential, and whether another client fetches tokens with it",
        ),
        "lifetime_implausible": LogEvent(
            "warning",
            "The lifetime in the reply is implausible, and gatepass uses another one.",
            "credential claimed_lifetime_s lifetime_s",
            "check `reply.unit` and `max_ttl_s` of the credential",
        ),
        "expiry_missing": LogEvent(
            "warning",
            "The reply does not contain the configured path of the expiry. Logged once.",
            "credential path assumed_lifetime_s",
            "correct `reply.expiry`",
        ),
        "refresh_token_not_stored": LogEvent(
            "warning",
            "gatepass could not store a new refresh token. A restart would begin with an old one.",
            "credential reason",
            "set `refresh_token_file`, and make its directory writable",
        ),
        "refresh_token_not_read": LogEvent(
            "warning",
            "gatepass ignores a stored refresh token and signs in instead.",
            "credential reason",
            "follow the reason",
        ),
        "token_shared": LogEvent(
            "debug",
            "Another process fetched the token.",
            "credential lifetime_s",
        ),
        "token_failure_shared": LogEvent(
            "debug",
            "Another process could not fetch the token.",
            "credential reason",
        ),
        "keys_reloaded": LogEvent(
            "info",
            "All keys in a key file are usable again.",
            "key",
        ),
        "keys_unusable": LogEvent(
            "warning",
            "A key file is unreadable or contains no key, and its previous keys stay valid. Or it contains an"
            " unusable key, such as one of less than 16 characters, and gatepass ignores this key.",
            "key reason keys_in_force",
            "restore the file, or create a key with `gatepass keys new`",
        ),
        "header_reloaded": LogEvent(
            "info",
            "gatepass can read the file of a static header again.",
            "setting",
        ),
        "header_unreadable": LogEvent(
            "warning",
            "gatepass cannot read the file of a static header. It sends the last good value.",
            "setting reason",
            "restore the file",
        ),
        "target_ejected": LogEvent(
            "warning",
            "The breaker (`models.NAME.breaker`) passes over a target for `ejected_s`, also after a failed probe.",
            "target ejected_s cause code",
            "test it with `gatepass doctor`",
        ),
        "target_recovered": LogEvent(
            "info",
            "The probe of an ejected target succeeded. It receives requests again.",
            "target",
        ),
        "target_waits": LogEvent(
            "info",
            "A target answered 429, or 503 with `retry-after`. Requests pass over it (`models.NAME.max_cooldown_s`).",
            "target wait_s",
            "ask its owner for a higher limit if that is frequent",
        ),
        "target_drained": LogEvent(
            "info",
            "An operator drained a target: `gatepass target drain`.",
            "target processes",
        ),
        "target_resumed": LogEvent(
            "info",
            "The target receives requests again: `gatepass target resume`.",
            "target processes",
        ),
        "rule_learned": LogEvent(
            "info",
            "gatepass learned a rule from an upstream's error.",
            _RULE,
            "set the rule in `models.NAME.rules` to keep it",
        ),
        "rule_revoked": LogEvent(
            "info",
            "The upstream did not accept a request with a learned rule either. gatepass forgets the rule.",
            _RULE,
        ),
        "rule_failed": LogEvent(
            "info",
            "A change after an error did not help. gatepass does not try it again for a minute.",
            _RULE,
        ),
    }
)

FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "ts": "the time in UTC",
        "level": "the level: debug, info, warning or error",
        "event": "the name of the event",
        "worker": "the number of the worker process, if there are several",
        "id": "the request id: `x-request-id` of the client, or a new one",
        "method": "the HTTP method",
        "path": "the path of the request without its query; of an expiry: the path in the reply; of a socket: its file",
        "operation": "the operation, `model` for one entry of the model list, `preflight` for CORS, `none` if unknown",
        "caller": "the name of the caller",
        "key_id": "the id of the key: the first 8 digits of its hash; of a store: a fingerprint of its encryption key",
        "user_agent": "the client's `user-agent`, up to 128 characters",
        "model": "the public name of the model; of a rule: the upstream's name",
        "upstream": "the name of the upstream; of a model list: all that gatepass called",
        "upstream_model": "the upstream's name of the model",
        "stream": "true if the client requested a stream",
        "status": "the HTTP status",
        "outcome": "`ok`, `error` or `client_gone`",
        "code": "the error code, of a target that of its last error; of a worker: its exit code",
        "hop": "the part that failed",
        "reason": "the reason in words, with secrets masked",
        "attempts": "requests that gatepass sent to upstreams",
        "renewed": "true if gatepass sent the request again with a new token",
        "repeated_stale": "true if gatepass sent the request again on a new connection",
        "adapted": "the changes, as in `x-gatepass-adapted`: `translate=messages` for a translated request,"
        " `untranslated=NAME` for what the chat or the reply lacks. Also later repairs of a stream, and"
        " `translate=no-usage`",
        "tried": "on an error: the changes that did not help or did not suffice, as in `x-gatepass-tried`",
        "failover": "the targets of the attempts that failed before, each with its error: `first=upstream_connect`",
        "duration_s": "seconds to the end of the response",
        "ttft_s": "seconds to the first byte of the response",
        "token_wait_s": "seconds of `ttft_s` in which the request waited for a token",
        "bytes_in": "body bytes from the client",
        "bytes_out": "body bytes to the client",
        "events": "events of the stream",
        "usage": "token counts of the upstream: `prompt_tokens`, `completion_tokens`, `total_tokens`, `cached_tokens`"
        " (a part of the first) and `reasoning_tokens` (a part of the second)",
        "tokens_estimated": "the tokens that count for limits, if the upstream reported none",
        "of": "whose limits, such as `caller/ana`",
        "over_limits": "the limits with `mode: observe` that would have refused the request",
        "upstream_request_id": "the upstream's own request ids, the failed one first",
        "mcp": "the MCP servers",
        "mcp_method": "the method of a message to an MCP server, or `DELETE` for the end of a session",
        "mcp_tool": "the tool that the message calls",
        "trace_id": "the id of its trace, with [`tracing`](../guides/tracing.md)",
        "replay_of": "the id of the captured request that was sent again; `caller` is who did it, `local` for"
        " `gatepass replay`",
        "replayed_without": "the rules and changes that the replay left out",
        "empty_answer": "true for a chat that ended with the finish reason `stop` and without content or a call",
        "for_s": "seconds for which bodies are kept",
        "ended_by": "`expired`, `stopped`, or `replaced` by another capture",
        "captured": "how many requests were captured",
        "peer": "the address of the connection, which may be a proxy's",
        "peers": "the number of requests from each of up to 10 addresses, and from `others`",
        "count": "how many events the line stands for",
        "trace": "the traceback",
        "version": "the version of gatepass",
        "configuration": "the file of the configuration, or the environment",
        "upstreams": "the names of the upstreams",
        "credentials": "the names of the credentials",
        "keys": "the number of keys",
        "held_bytes": "`limits.held_bytes` of each worker",
        "held_bytes_of": "where this value is set; `default`, or how it follows from the container's memory",
        "url": "the URL of gatepass",
        "used_by": "what uses the port: a gatepass of this user, another program or another gatepass, or nothing",
        "page": "the URL of the page for operators, if it is on",
        "address": "the host and port",
        "file": "the file of the configuration",
        "warning": "the warning",
        "problems": "each problem with its line",
        "limit": "the soft limit of file descriptors",
        "needed": "the file descriptors that `limits.connections` needs",
        "trigger": "what started the reload: a signal, a command or a changed file",
        "changed": "the changed settings",
        "retried": "the failing credentials that fetch now",
        "settings": "the settings that need a restart",
        "delay_s": "seconds for which gatepass still accepts requests",
        "bound_s": "seconds that running requests may take",
        "in_flight": "requests in progress",
        "observer": "the class of the observer that failed",
        "streams_ended": "streams that gatepass ended with an error event",
        "action": "what the caller did: login, logout, or an action of the page",
        "role": "the role of the caller's key",
        "of_caller": "the caller whose requests are captured",
        "new_id": "the id of the request that a replay sends",
        "without": "the rules that a replay leaves out",
        "forgotten": "how many learned rules were forgotten",
        "call": "whether doctor sent real calls",
        "pid": "the process id",
        "again_in_s": "seconds until the next start",
        "workers": "the number of workers",
        "silent": "the worker that did not answer",
        "through": "the URL of the store, or the folder of the workers",
        "key_prefix": "the prefix of the keys in the store",
        "credential": "the name of the credential",
        "took_s": "seconds that the fetch took",
        "lifetime_s": "seconds of the token's lifetime that gatepass uses",
        "lifetime_source": "the source of the lifetime: `jwt`, `reply`, `default_ttl_s` or `none`",
        "kind": "the kind of token: `jwt`, `opaque` or `key`",
        "definite": "true if the issuer refused the credential, so that quick retries do not help",
        "times": "how often the failure happened since the last line",
        "target": "the upstream, or the upstream and its model: `east/gpt-4o`",
        "processes": "how many processes follow the order",
        "ejected_s": "seconds for which requests pass over the target",
        "wait_s": "seconds for which requests pass over the target",
        "cause": "the setting of `breaker` whose limit was reached, or `probe`",
        "age_s": "seconds since the token was requested",
        "claimed_lifetime_s": "seconds in the reply",
        "assumed_lifetime_s": "seconds that gatepass assumes instead",
        "key": "the name of the key's caller",
        "keys_in_force": "keys of this entry that gatepass still accepts",
        "setting": "the setting of the header",
        "evidence": "the upstream's sentence from which gatepass learned, masked",
    }
)
"""What each field means, in every event that has it."""
