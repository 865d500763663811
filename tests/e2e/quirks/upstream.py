"""The scripted upstream: each model name selects a row. Start it with `python -m tests.e2e.quirks.upstream`.

`GET /count` returns the requests per model since the last `POST /forget`, which also clears the state of all models.
`POST /token` issues the tokens of the rows about expired tokens.
"""

import itertools
from collections import Counter, defaultdict
from typing import Any

from tests.e2e.process import serve_answers
from tests.e2e.quirks.replies import EVENTS, HTML, Reply, Request, Serve, error, json_reply
from tests.e2e.quirks.rows import ROWS
from tests.integration.scripted import LAST_CHUNK, Dialogue, Fin, Received, Send, reply, stream

SERVE: dict[str, Serve] = {row.model: row.serve for row in ROWS}
RAGFLOW = "/api/v1/openai/"
LOGIN = b"<!doctype html><html><head><title>Sign in</title></head><body>who are you?</body></html>"


class Upstream:
    def __init__(self) -> None:
        self._tokens = itertools.count(1)
        self._forget()

    def answer(self, request: Received) -> Dialogue:
        return dialogue_of(self._reply(request))

    def _forget(self) -> Reply:
        self._counts: Counter[str] = Counter()
        self._remembered: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        return json_reply({})

    def _reply(self, request: Received) -> Reply:
        path = request.target
        match request.method, path:
            case "GET", "/count":
                return json_reply(self._counts)
            case "GET", _ if path.endswith("/models"):
                return json_reply({"object": "list", "data": [{"id": name, "object": "model"} for name in SERVE]})
            case "GET", _:  # the target of a redirect
                return Reply(200, HTML, (LOGIN,))
            case _, "/token":
                return json_reply({"access_token": f"token-{next(self._tokens)}", "expires_in": 3600})
            case _, "/forget":
                return self._forget()
        body = request.json()
        model = str(path.removeprefix(RAGFLOW).split("/")[0] if path.startswith(RAGFLOW) else body.get("model"))
        if model not in SERVE:
            return json_reply(error(f"The model {model!r} does not exist.", "model", "model_not_found"), 404)
        self._counts[model] += 1
        token = (request.header("authorization") or "").removeprefix("Bearer ")
        return SERVE[model](Request(body, token, self._remembered[model]))


def dialogue_of(made: Reply) -> Dialogue:
    fields = dict(made.headers)
    if made.kind == EVENTS:
        events = filter(None, made.pieces)
        return [Send(stream(*events, end=b"")), Fin()] if made.cut else [Send(stream(*events, end=LAST_CHUNK))]
    return [Send(reply(b"".join(made.pieces), made.status, content_type=made.kind, **fields))]


if __name__ == "__main__":
    serve_answers(Upstream().answer)
