"""The protocols that clients speak, one object each: requests, replies, errors and keep-alives in the client's format.

`PROTOCOLS` has each `ClientProtocol` by its name. `operations` is the table of the API, which names them, and `request`
reads bodies and headers. The package does no I/O. It must not import `learning`, `proxy` or anything above.
"""

from collections.abc import Mapping

from gatepass.protocols.chat import CHAT, COMPLETIONS
from gatepass.protocols.client_protocol import RAW, ClientProtocol
from gatepass.protocols.embeddings import EMBEDDINGS
from gatepass.protocols.messages import COUNT_TOKENS, MESSAGES
from gatepass.protocols.models import ANTHROPIC_MODELS, CODEX_MODELS, MODELS
from gatepass.protocols.rerank import RERANK
from gatepass.protocols.responses import COMPACT, INPUT_TOKENS, RESPONSES, STORED_RESPONSES

_ALL = (
    *(CHAT, COMPLETIONS, EMBEDDINGS, RERANK, RESPONSES, COMPACT, INPUT_TOKENS, STORED_RESPONSES),
    *(MESSAGES, COUNT_TOKENS, MODELS, ANTHROPIC_MODELS, CODEX_MODELS, RAW),
)
PROTOCOLS: Mapping[str, ClientProtocol] = {one.name: one for one in _ALL}
