"""No generated repr shows a field that can hold a secret, such as the headers of a request."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

import gatepass

HOLDS_BYTES = re.compile(r"\b(bytes|bytearray|Headers|Piece)\b")
"""Types of received or sent data: header fields, bodies, and parts of them."""
HOLDS_SECRET = re.compile(r"(url|query|body|\w*text|raw|value|key|token|secret|password|answers|tree|payload)\Z")
"""Names of fields that hold such a value in another type."""
HIDES = re.compile(r"(AccessKey|Secret|Token|SentToken|SigningKey|bool|int)( \| None)?\Z")
"""Types whose own repr shows no secret."""
SHOWN = {
    "cli.init.Question": {"text"},  # a constant
    "cli.init.Setup": {"answers"},  # the secret is a separate field
    "config.document.ConfigProblem": {"text"},  # what the user reads
    "config.environment.VariableValue": {"value"},  # a secret is a Reference
    "http_client.message_head.Destination": {"authority"},  # host and port
    "observability.observer.AttemptRecord": {"trace", "url"},  # ids, and a URL without its query
    "json_body._Name": {"text"},  # the name of a member
    "normalize.members.Drop": {"only"},  # rules of the configuration, or learned ones
    "normalize.members.Set": {"text"},
    "normalize.members.Default": {"text"},
    "protocols.rerank.RerankOptions": {"echoed"},  # documents of a request
    "sse.event.Event": {"name", "id"},
    "tokens.sharing.SharedTokenNames": {"token"},  # the name of an entry in the store
}
"""Fields that may be shown, with the reason."""


def classes() -> Iterator[type]:
    for info in pkgutil.walk_packages(gatepass.__path__, "gatepass."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for found in vars(module).values():
            if inspect.isclass(found) and found.__module__ == info.name:
                is_tuple = issubclass(found, tuple) and hasattr(found, "_fields")
                if is_tuple or issubclass(found, msgspec.Struct) or dataclasses.is_dataclass(found):
                    yield found


@dataclass(frozen=True)
class Planted:
    name: str

    def __repr__(self) -> str:
        return f"<planted {self.name}>"

    def __float__(self) -> float:
        return 0.0


def field_names(cls: Any) -> tuple[str, ...]:
    if issubclass(cls, msgspec.Struct):
        return tuple(cls.__struct_fields__)
    return tuple(field.name for field in dataclasses.fields(cls)) if dataclasses.is_dataclass(cls) else cls._fields


def with_planted(cls: Any) -> Any:
    """Return an instance of `cls` whose fields hold values that a repr can be searched for."""
    values = {name: Planted(name) for name in field_names(cls)}
    if hasattr(cls, "__post_init__") and issubclass(cls, msgspec.Struct):  # it reads the values of a struct
        own = {} if cls.__repr__ is msgspec.Struct.__repr__ else {"__repr__": cls.__repr__}
        return msgspec.defstruct(cls.__name__, values, namespace=own)(**values)
    if issubclass(cls, msgspec.Struct | tuple):
        return cls(**values)
    made = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def annotation(cls: Any, name: str) -> str:
    annotations = (inspect.get_annotations(base) for base in cls.__mro__)
    found = next(each[name] for each in annotations if name in each)
    return str(getattr(found, "__forward_arg__", found))


def revealing(cls: Any) -> list[str]:
    """Return the fields that can hold a secret, and that the repr of `cls` shows."""
    shown = repr(with_planted(cls))
    known = SHOWN.get(f"{cls.__module__}.{cls.__qualname__}".removeprefix("gatepass."), set())
    return [
        f"{name}: {kind}"
        for name in field_names(cls)
        if f"<planted {name}>" in shown and name not in known
        for kind in (annotation(cls, name),)
        if HOLDS_BYTES.search(kind) or (HOLDS_SECRET.match(name) and not HIDES.match(kind) and "Raw" not in kind)
    ]


@pytest.mark.parametrize("cls", [*classes()], ids=lambda cls: f"{cls.__module__}.{cls.__qualname__}")
def test_no_repr_shows_what_can_hold_a_secret(cls: type) -> None:
    assert not revealing(cls)


def test_a_struct_that_reveals_headers_is_found() -> None:
    class Open(msgspec.Struct):
        headers: tuple[tuple[bytes, bytes], ...]

    assert revealing(Open) == ["headers: tuple[tuple[bytes, bytes], ...]"]
