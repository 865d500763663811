"""`upstreams.NAME`: one server behind gatepass."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from gatepass.call import Secret
from gatepass.config.block import HEADER_NAME, BaseUrl, Block, Name, SecretText
from gatepass.config.carry import OWN_FIELDS, Carry, FieldName, checked_fields, unfit
from gatepass.config.dialects import Azure, DialectName, Ragflow, misplaced
from gatepass.config.network import Network, TimeoutSettings
from gatepass.config.rejection import Rejection
from gatepass.config.repair import Repair
from gatepass.config.rerank import RerankShape
from gatepass.config.rules import Learnable
from gatepass.lexicon import CREDENTIALS

NEVER_FORWARDED = OWN_FIELDS - {"x-request-id"} | {name.decode() for name in CREDENTIALS}
"""Request headers that belong to one hop, to gatepass itself, or hold the client's key."""


class Upstream(Block):
    base_url: BaseUrl
    """Up to and with the version, such as `https://llm.corp.example/v1`."""
    dialect: DialectName = "openai"
    """The protocol that the upstream speaks."""
    azure: Azure | None = None
    """What only `dialect: azure` wants to know."""
    ragflow: Ragflow | None = None
    """What only `dialect: ragflow` wants to know."""
    credential: Name | None = None
    """A name under `credentials`; None sends no credential."""
    carry: Carry | None = None
    """How the token is shown to this upstream; None: as the credential says."""
    headers: dict[FieldName, SecretText] = {}
    """Headers to send with every request, beside the token; they replace a client's of the same name."""
    rejection: Rejection = Rejection()
    """How this upstream says, beside a 401, that it does not take the token."""
    network: Network = Network()
    """The way to this upstream."""
    timeouts: TimeoutSettings = TimeoutSettings()
    """How long to wait for it."""
    rerank_shape: RerankShape = "jina"
    """How its reranker is asked."""
    max_connections: Annotated[int, Field(gt=0)] | None = None
    """Connections at once; None: as many as `limits.connections`."""
    forward_headers: list[Annotated[str, Field(pattern=HEADER_NAME)]] = []
    """Request headers of the client to send on, beside the built-in list."""
    learn: Literal["off", "on"] = "on"
    """Whether its rejections teach what later requests go by."""
    learn_also: list[Learnable] = []
    """Changes to learn although they alter what is asked for: members that may go, system_into_user, merge_roles."""
    repair: Repair = Repair()
    """What is mended in its streams, beside what is always."""
    repeat_stale: bool = True
    """Send a request again, once, when a reused connection closed without one byte of answer."""
    allow_plain_http: bool = False
    """Send the credential over plain HTTP beyond loopback."""

    @field_validator("learn", mode="before")
    @classmethod
    def _not_observed(cls, value: object) -> object:
        if value == "observe":
            raise ValueError("observe was removed: set on (`gatepass learned` lists what is changed), or off")
        return value

    @field_validator("azure", "ragflow")
    @classmethod
    def _of_its_dialect(cls, block: Block | None, info: ValidationInfo) -> Block | None:
        if block is not None and info.data.get("dialect", info.field_name) != info.field_name:
            raise ValueError(f"says nothing to dialect: {info.data['dialect']}; remove it, or set {info.field_name}")
        return block

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if fault := misplaced(self.dialect, self.base_url, self.azure):
            raise ValueError(fault)
        return self

    @field_validator("forward_headers")
    @classmethod
    def _no_hop_headers(cls, names: list[str]) -> list[str]:
        refused = [name for name in names if name.lower() in NEVER_FORWARDED or name.lower().startswith("x-gatepass-")]
        if refused:
            raise ValueError(f"{', '.join(refused)} never goes up: gatepass makes it itself, or it holds a key")
        return names

    @field_validator("headers")
    @classmethod
    def _settable(cls, headers: dict[str, Secret]) -> dict[str, Secret]:
        checked_fields(headers)
        for name, value in headers.items():
            if fault := unfit(value.reveal()):
                raise ValueError(f"the value of {name} {fault}")
        return headers
