"""The whole street on one machine: an issuer, two model servers, and gatepass in front of them."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gatepass.demo.gateway import Gateway, gateway
from gatepass.demo.issuer import Client, Issuer, Turn
from gatepass.demo.model_server import ModelServer
from gatepass.demo.sabotage import Sabotage
from gatepass.demo.serving import serving
from gatepass.demo.signing import Minted, SigningKey
from gatepass.demo.voice import Voice

CHAT_MODEL = "demo-chat"
EMBEDDINGS_MODEL = "demo-embed"


@dataclass(frozen=True, slots=True)
class Stage:
    """Who plays, and where. `folder` holds gatepass's configuration and the key that it asks of its callers."""

    issuer: Issuer
    chat: ModelServer
    embeddings: ModelServer
    issuer_url: str
    chat_url: str
    embeddings_url: str
    gateway: Gateway
    folder: Path

    def key(self) -> str:
        return (self.folder / "key").read_text(encoding="utf-8")

    def curl(self) -> str:
        """A streamed chat to paste into a shell of this user; the key stays in its file."""
        return (
            f"curl -N {self.gateway.url}/v1/chat/completions \\\n"
            f'  -H "Authorization: Bearer $(cat {self.folder}/key)" -H "Content-Type: application/json" \\\n'
            f'  -d \'{{"model": "{CHAT_MODEL}", "stream": true, "messages": [{{"role": "user", "content": "Hi"}}]}}\''
        )


@asynccontextmanager
async def stage(
    voice: Voice, on_mint: Callable[[Minted], object], *, life_s: float, sabotage: Sabotage | None = None
) -> AsyncIterator[Stage]:
    """Everything up and ready, and all of it gone at the end. Raises GatewayFailed."""
    signing = SigningKey()
    clients = (_client("chat"), _client("embeddings"))
    issuer = Issuer(signing, *clients, life_s=life_s, on_mint=on_mint)
    chat = ModelServer(signing, audience="chat", models=[CHAT_MODEL])
    embeddings = ModelServer(signing, audience="embeddings", models=[EMBEDDINGS_MODEL])
    _spoil(sabotage, issuer, chat, embeddings)
    with tempfile.TemporaryDirectory(prefix="gatepass-demo-") as name:
        folder = Path(name)
        _keep(
            folder, voice, {"key": f"gp-{secrets.token_urlsafe(32)}"} | {client.id: client.secret for client in clients}
        )
        async with (
            serving(issuer.app) as issuer_url,
            serving(chat.app) as chat_url,
            serving(embeddings.app) as embeddings_url,
        ):
            config = folder / "gatepass.yaml"
            text = _CONFIG.format(issuer=issuer_url, chat=chat_url, embeddings=embeddings_url, folder=folder)
            config.write_text(text, encoding="utf-8")
            async with gateway(config, folder / "gatepass.log") as running:
                yield Stage(issuer, chat, embeddings, issuer_url, chat_url, embeddings_url, running, folder)


def _client(audience: str) -> Client:
    return Client(id=f"demo-{audience}", secret=secrets.token_urlsafe(24), audience=audience)


def _keep(folder: Path, voice: Voice, texts: dict[str, str]) -> None:
    """Put each secret into a file of its name, for this user alone, and out of what is printed."""
    voice.hide(*texts.values())
    for name, text in texts.items():
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")


def _spoil(sabotage: Sabotage | None, issuer: Issuer, chat: ModelServer, embeddings: ModelServer) -> None:
    match sabotage:
        case Sabotage.STREAM:
            chat.faults.cut_streams = True
        case Sabotage.BURST:
            chat.faults.burst = True
        case Sabotage.IMAGES:
            chat.faults.blind = True
        case Sabotage.EMBEDDINGS:
            embeddings.faults.swapped_vectors = True
        case Sabotage.RENEWAL:
            issuer.on_mint = _then_outage(issuer)
        case Sabotage.STALE_CHECK:
            chat.faults.lenient = True


def _then_outage(issuer: Issuer) -> Callable[[Minted], object]:
    """Once either client has its first token, there are no more."""
    tell = issuer.on_mint

    def told(token: Minted) -> None:
        tell(token)
        if {minted.audience for minted in issuer.minted} == {"chat", "embeddings"}:
            issuer.otherwise = Turn.fail(503)

    return told


_CONFIG = """\
server: {{host: 127.0.0.1, drain_timeout_s: 2}}
credentials:
  corp:
    type: oauth2
    token_url: {issuer}/oauth/token
    client_id: demo-chat
    client_secret: "${{file:{folder}/demo-chat}}"
  portal:
    type: http_json
    url: {issuer}/login
    json: {{app_id: demo-embeddings, secret: "${{file:{folder}/demo-embeddings}}"}}
    reply: {{token: data.token, expires_at: data.expireAt, unit: ms}}
upstreams:
  chat: {{base_url: "{chat}/v1", credential: corp}}
  embed: {{base_url: "{embeddings}/v1", credential: portal}}
models:
  demo-chat: {{upstream: chat}}
  demo-embed: {{upstream: embed}}
access:
  keys:
    - {{name: demo, key: "${{file:{folder}/key}}"}}
"""
