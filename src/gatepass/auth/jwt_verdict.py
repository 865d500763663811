"""The verdict of a JWT that a caller sent: its issuer, its claims, its signature, and the row of the table it meets.

`access.jwt` configures it. The checks follow RFC 8725 and RFC 9068. Nothing here reads a clock, a file or a network.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from gatepass.config.access import KEYCLOAK_DEFAULT, SIGNATURES, CallerRow, JwtIssuer, claim_path
from gatepass.config.advice import Advice, explained
from gatepass.config.certificates import SHORTEST_RSA_BITS
from gatepass.errors import InvalidToken, NotAllowed

if TYPE_CHECKING:
    from jwt.algorithms import AllowedPublicKeys

LEEWAY_S = 30.0
"""How far the clocks of issuer and gatepass may differ, for `exp`, `nbf` and `iat`."""
TYPES = frozenset(("at+jwt", "application/at+jwt", "jwt"))
"""The values of the header `typ` (RFC 9068 2.1, RFC 7519 5.1), in any case. It may be absent."""
_REFRESH = re.compile(r"(?i)(?:refresh(?:_token)?|offline|rt\+jwt)\b")
"""How a refresh token is marked: in the claim `typ` (Keycloak), `token_type` or `token_use`, or in the header `typ`."""
NO_ACCESS = frozenset(
    (
        *("logout", "serialized-id", "initialaccesstoken", "registrationaccesstoken"),
        # links in mails of Keycloak, and of an administrator who acts as another user
        *("execute-actions", "idp-verify-account-via-email", "impersonate", "orgivt", "reset-credentials"),
        *("update-email", "verify-email"),
    )
)
"""Values of Keycloak's claim `typ`, in lower case, of tokens that are for the issuer itself."""
WORDS = ("scope", "scp")
"""Claims whose text is words between blanks (RFC 8693 4.2, Entra). In others a blank is a part of somebody's name."""
MAX_TOKEN_CHARS = 16_384
"""A token with 200 groups of Entra has two thirds of them. Any client may send one, and decoding takes time."""
MAX_SHOWN_CHARS = 200
MAX_USER_CHARS = 100
MOST_KEYS = 100
"""Keys of a set that are read: public issuers have up to ten."""
MOST_RSA_BITS = 16_384
"""OpenSSL verifies with no larger one."""
RENEWED = frozenset(("jwt_expired", "jwt_early", "jwt_kid", "jwt_signature"))
"""The cases that end with another token. At any other, Claude Code would send the same token ten times."""
ACCESS_CLAIMS = ("scope", "scp", "client_id", "idtyp", "appid", "appidacr", "azpacr", "kubernetes.io")
"""Claims of access tokens alone: of RFC 9068, Entra (v1, then v2) and Kubernetes service accounts."""
GRAPH = {"00000003-0000-0000-c000-000000000000", "https://graph.microsoft.com", "https://graph.microsoft.com/"}
"""The audience of Microsoft Graph. Its tokens have a nonce in the header, so that only Graph can verify them."""

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_ENCRYPTED = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*){4}")  # RFC 7516 3.1
_ENTRA = re.compile(r"https://(?:sts\.windows\.net|login\.microsoftonline\.com)/([^/]+)")  # v1, v2: their tenant
_DRESSED = re.compile(r"(?i)[\"']|^\"?bearer ")
"""What people copy together with a token."""
_CURVES = {"ES256": ("EC", "P-256"), "ES384": ("EC", "P-384"), "ES512": ("EC", "P-521"), "EdDSA": ("OKP", "Ed25519")}
_PUBLIC = ("kty", "n", "e", "crv", "x", "y")


@dataclass(frozen=True, slots=True)
class Token:
    """A JWT as its sender wrote it. Nothing of it is verified."""

    text: str = field(repr=False)
    header: Mapping[str, Any]
    claims: Mapping[str, Any] = field(repr=False)

    @classmethod
    def read(cls, text: str) -> Token | None:
        """Return the signed JWT `text` (RFC 7515 3.1), None if `text` is something else."""
        if len(text) > MAX_TOKEN_CHARS or _COMPACT.fullmatch(text) is None:
            return None
        try:
            header, claims = (
                json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode()) for part in text.split(".")[:2]
            )
        except (ValueError, RecursionError):
            return None
        return cls(text, header, claims) if isinstance(header, dict) and isinstance(claims, dict) else None

    @property
    def issuer(self) -> str:
        return found if isinstance(found := self.claims.get("iss"), str) else ""

    @property
    def kid(self) -> str | None:
        return found if isinstance(found := self.header.get("kid"), str) else None

    @property
    def typ(self) -> str:
        """The claim `typ` in lower case, "" if it is no text."""
        return found.strip().lower() if isinstance(found := self.claims.get("typ"), str) else ""

    @property
    def ends_s(self) -> float:
        """When a token that `check_claims` let pass is no longer accepted, in epoch seconds."""
        return float(self.claims["exp"]) + LEEWAY_S


class KeySet:
    """The public keys of one issuer that verify signatures, out of a JWKS (RFC 7517 5). `make` makes them."""

    def __init__(self, document: bytes) -> None:
        """Raise ValueError if `document` is not a key set."""
        try:
            decoded = json.loads(document)
        except (ValueError, RecursionError):
            raise ValueError("its key set is no JSON") from None
        listed = decoded.get("keys") if isinstance(decoded, dict) else None
        if not isinstance(listed, list):
            raise ValueError("its key set has no list `keys`")  # noqa: TRY004 - a fault of the document
        self._listed: Sequence[object] = listed[:MOST_KEYS]
        self._made: list[tuple[Mapping[str, Any], AllowedPublicKeys]] = []
        self.faults: list[str] = []
        """Why each key that is not among them cannot be used."""

    def make(self) -> Iterator[None]:
        """Make the keys that can be made (RFC 7517 5), one with each step. Raise ValueError if there is none."""
        for number, key in enumerate(self._listed, 1):
            members = key if isinstance(key, dict) else {}
            operations = members.get("key_ops", ["verify"])
            # one for encryption is no fault (RFC 7517 4.2, 4.3)
            if members.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations:
                try:
                    self._made.append(_made(key))
                except ValueError as error:
                    which = f"number {number}" if (kid := members.get("kid")) is None else f"kid {_shown(kid)}"
                    self.faults.append(f"{which}: {error}")
            yield
        if not self._made:
            raise ValueError(f"its key set has no keys for signatures{'; ' * bool(self.problem)}{self.problem}")

    def __len__(self) -> int:
        return len(self._made)

    @property
    def problem(self) -> str:
        """How many keys cannot be used, and why the first one cannot. "" if all can."""
        failed = len(self.faults)
        return f"{failed} of {failed + len(self)} keys cannot be used ({self.faults[0]})" if failed else ""

    def find(self, token: Token) -> AllowedPublicKeys | None:
        """Return the key for the signature of `token`. One without `kid` has the only one that fits its algorithm."""
        kid, algorithm = token.kid, str(token.header["alg"])
        fitting = [made for key, made in self._made if _fits(key, algorithm) and kid in (None, key.get("kid"))]
        return None if not fitting or (kid is None and len(fitting) > 1) else fitting[0]


def _fits(key: Mapping[str, object], algorithm: str) -> bool:
    kind = key.get("kty"), key.get("crv")
    return key.get("alg", algorithm) == algorithm and kind == _CURVES.get(algorithm, ("RSA", None))


def _made(key: object) -> tuple[Mapping[str, Any], AllowedPublicKeys]:
    """Return an entry of a key set with its key. Raise ValueError, with the reason, if it is none to verify with."""
    # imported here: PyJWT with cryptography takes 20 MB and a seventh of a start
    from jwt import PyJWK
    from jwt.exceptions import PyJWTError

    if not isinstance(key, dict):
        raise ValueError("it is no object")  # noqa: TRY004 - a fault of the document
    if (algorithm := next((one for one in SIGNATURES if _fits(key, one)), None)) is None:
        kind = ", ".join(f"{name} {_shown(key[name])}" for name in ("kty", "crv", "alg") if name in key)
        raise ValueError(f"gatepass verifies no signatures with {kind or 'a key without kty'}")
    # the private part of a key that an issuer published by mistake is not read
    public = {name: key[name] for name in _PUBLIC if name in key}
    try:
        made = PyJWK(public, algorithm).key
    except (PyJWTError, ValueError, TypeError):
        raise ValueError(f"its {', '.join(public)} are no public key") from None
    if key["kty"] == "RSA" and not SHORTEST_RSA_BITS <= made.key_size <= MOST_RSA_BITS:  # RFC 7518 3.3
        raise ValueError(f"it has {made.key_size} bits, not {SHORTEST_RSA_BITS} to {MOST_RSA_BITS}")
    return key, made


def entry_of(token: Token, entries: Sequence[JwtIssuer]) -> int | None:
    """Return which entry of `access.jwt` has the token's issuer. No two have the same."""
    return next((at for at, entry in enumerate(entries) if token.issuer in entry.issuer), None)


def unknown(presented: Sequence[str], entries: Sequence[JwtIssuer]) -> InvalidToken:
    """Return the error for texts of which none is a key or a token of a configured issuer."""
    token = next(filter(None, map(Token.read, presented)), None)
    if token is None and (chars := max(map(len, presented))) > MAX_TOKEN_CHARS:
        return _refused(f"The token has {chars} characters. gatepass reads up to {MAX_TOKEN_CHARS}.", "jwt_size")
    if token is None and any(map(_ENCRYPTED.fullmatch, presented)):
        return _refused("The request has an encrypted token.", "jwt_encrypted")
    if token is None:
        if any(Token.read(_DRESSED.sub("", text)) for text in presented):
            return _refused("The token is in quotes, or behind a second Bearer.", "jwt_dressed")
        return _refused("The request has neither a known API key nor a JWT.", "jwt_opaque")
    if GRAPH & _audiences(token.claims):
        return _refused("The token is for Microsoft Graph.", "jwt_graph")
    known = [issuer for entry in entries for issuer in entry.issuer]
    tenant, *tenants = [found and found[1] for found in map(_ENTRA.match, (token.issuer, *known))]
    case = "jwt_entra" if tenant in tenants else "jwt_tenant" if any(tenants) else "jwt_issuer"
    came = f"is of the issuer {_shown(token.claims['iss'])}" if "iss" in token.claims else "has no claim iss"
    return _refused(f"The token {came}. access.jwt has {_listed(known)}.", case if tenant else "jwt_issuer")


def check_claims(token: Token, entry: JwtIssuer, wall_s: float) -> None:
    """Check all but the signature and the table; `wall_s` is in epoch seconds. Raise InvalidToken."""
    header, claims = token.header, token.claims
    kind = header.get("typ", "JWT")
    marks = (kind, token.typ, claims.get("token_type"), claims.get("token_use"))
    if any(isinstance(mark, str) and _REFRESH.match(mark.strip()) for mark in marks):
        # before its algorithm: those of Keycloak are signed with a secret
        raise _refused("This is a refresh token. gatepass expects an access token.", "jwt_refresh")
    if header.get("alg") not in SIGNATURES:
        raise _refused(
            f"The token is signed with {_shown(header.get('alg'))}. gatepass accepts {', '.join(SIGNATURES)}.",
            "jwt_algorithm",
        )
    for name, where in (("crit", header), ("cnf", claims)):
        if name in where:
            raise _refused(
                f"The token has `{name}`, so its holder has to prove more than gatepass checks.", "jwt_bound"
            )
    if not isinstance(kid := header.get("kid", ""), str):
        raise _refused(f"The kid of the token is {_shown(kid)}, which is no text.", "jwt_kid")
    if not isinstance(kind, str) or kind.lower() not in TYPES:
        raise _refused(f"The header of the token has typ {_shown(kind)}, which no access token has.", "jwt_type")
    if "events" in claims:
        raise _refused("The claims of the token are those of a logout token.", "jwt_type")
    if token.typ in NO_ACCESS:
        raise _refused(
            f"The claim typ of the token is {_shown(claims['typ'])}, which no access token has.", "jwt_refresh"
        )
    _check_times(claims, wall_s)
    _check_audience(claims, entry)
    _check_kind(token, entry)
    if not isinstance(subject := claims.get("sub"), str) or not subject:
        raise _refused("The token has no claim sub, by which gatepass knows its caller.", "jwt_subject")


def _check_times(claims: Mapping[str, Any], wall_s: float) -> None:
    times = {name: claims[name] for name in ("exp", "nbf", "iat") if name in claims}
    for name, value in times.items():
        # bool is an int in Python; the bounds exclude NaN and infinity
        if isinstance(value, bool) or not isinstance(value, int | float) or not -1e12 < value < 1e12:
            raise _refused(f"The claim {name} of the token is no time.", "jwt_time")
    if "exp" not in times:
        raise _refused("The token has no claim exp, so it would never end.", "jwt_time")
    if (late_s := wall_s - times["exp"]) >= LEEWAY_S:
        raise _refused(f"The token expired {span_text(late_s)} ago.", "jwt_expired")
    for name in ("nbf", "iat"):
        if (early_s := times.get(name, wall_s) - wall_s) > LEEWAY_S:
            raise _refused(
                f"The {name} of the token is {span_text(early_s)} ahead of the clock of gatepass.", "jwt_early"
            )


def _audiences(claims: Mapping[str, Any]) -> set[str]:
    came = claims.get("aud")
    return {one for one in (came if isinstance(came, list) else [came]) if isinstance(one, str)}


def _check_audience(claims: Mapping[str, Any], entry: JwtIssuer) -> None:
    if entry.audience is not None:
        came, found = claims.get("aud"), _audiences(claims)
        if not found.isdisjoint(entry.audience):
            return
        is_keycloak = found == {KEYCLOAK_DEFAULT} or (came is None and "/realms/" in str(claims.get("iss")))
        case = "jwt_graph" if found & GRAPH else "jwt_no_audience" if came is None else "jwt_audience"
        case = "jwt_keycloak" if is_keycloak else case
        what = "The token has no audience" if came is None else f"The token has the audience {_shown(came)}"
        what += " of Microsoft Graph" if found & GRAPH else ""
        raise _refused(f"{what}. gatepass expects {_listed(entry.audience)}.", case)
    for name, allowed in (entry.require or {}).items():
        if (came := _claim(claims, claim_path(name))) not in allowed:
            what = f"has {name} {_shown(came)}" if came is not None else f"has no claim {name}"
            raise _refused(f"The token {what}. gatepass expects {_listed(allowed)}.", "jwt_require")


def _check_kind(token: Token, entry: JwtIssuer) -> None:
    """Refuse an ID token where only access tokens are accepted, and the other way round."""
    header, claims = token.header, token.claims
    # Keycloak's claim `typ`: its access tokens had a `nonce` until version 24
    is_typed = token.typ == "bearer" or str(header.get("typ", "")).lower().endswith("at+jwt")
    is_id = token.typ == "id" or (not is_typed and any(name in claims for name in ("nonce", "at_hash", "c_hash")))
    says_access = is_typed or any(name in claims for name in ACCESS_CLAIMS)
    if is_id and "id" not in entry.tokens:
        raise _refused("This is an ID token, and `tokens` of its issuer is [access].", "jwt_id")
    if not is_id and says_access and "access" not in entry.tokens:
        raise _refused("This is an access token, and `tokens` of its issuer is [id].", "jwt_access")


def verify(token: Token, keys: KeySet, fetched: str) -> None:
    """Check the signature; `fetched` states when the keys were fetched. Raise InvalidToken. It takes about 0.1 ms."""
    from jwt.api_jws import PyJWS
    from jwt.exceptions import PyJWTError

    algorithm = str(token.header["alg"])
    if (key := keys.find(token)) is None:
        which = "no kid" if token.kid is None else f"the kid {_shown(token.kid)}"
        raise _refused(f"The token has {which}, and its issuer has no such key for {algorithm} ({fetched}).", "jwt_kid")
    try:
        # `find` has found the key for this algorithm alone, so that the token's header chooses no other
        PyJWS(options={"enforce_minimum_key_length": True}).decode_complete(token.text, key, [algorithm])
    except (PyJWTError, ValueError) as error:
        text = f"The signature of the token is not of the key that its issuer has ({fetched})."
        raise _refused(text, "jwt_signature") from error


def row_of(token: Token, entry: JwtIssuer) -> int | None:
    """Return the first row of the table that a verified token meets, None for none."""
    return next((at for at, row in enumerate(entry.callers) if _meets(_claim(token.claims, row.path), row)), None)


def no_row(token: Token, entry: JwtIssuer) -> NotAllowed:
    """Return the error for a verified token that meets no row."""
    claims, kinds = token.claims, {str: "a text", list: "a list", type(None): "absent"}
    looked = {row.claim: _claim(claims, row.path) for row in entry.callers}
    came = [f"{_shown(name)} ({kinds.get(type(value), 'another type')})" for name, value in looked.items()]
    whole = next((row.claim for row in entry.callers if is_of_words(looked[row.claim], row)), None)
    has_overage = ("hasgroups" in claims or "_claim_names" in claims) and "groups" in looked
    case = "entra_groups" if has_overage else "one_text" if whole else ""
    names = {"claim": _shown(whole)}
    why = f" {explained(case, names)['sentence']}" if case else ""
    return NotAllowed(
        "no_caller_row",
        f"The token of {_shown(token.issuer)} meets no row of access.jwt[].callers. gatepass looked at"
        f" {_joined(came, 'and')}.{why}",
        case=case,
        advice=str(Advice(case or "no_caller_row", names)),
    )


def identity_of(token: Token, entry: JwtIssuer) -> str:
    """Return by what limits, sessions and learned rules know the caller of a verified token."""
    # the digest is of one length, and no name of a key has a colon
    known = json.dumps([entry.identity_issuer(token.issuer), token.claims["sub"]])
    return f"jwt:{sha256(known.encode()).hexdigest()[:32]}"


def user_of(token: Token, row: CallerRow) -> str:
    """Return what the log and the page call the caller of a verified token, "" for nothing."""
    named = None if row.name_from is None else _claim(token.claims, claim_path(row.name_from))
    return _printable(named[:MAX_USER_CHARS]) if isinstance(named, str) else ""


def _meets(value: Any, row: CallerRow) -> bool:
    if row.equals is not None:
        return isinstance(value, str) and value in row.equals
    if isinstance(value, str):
        return row.contains in (value.split(" ") if row.path[-1] in WORDS else (value,))
    return isinstance(value, list) and row.contains in value


def is_of_words(value: Any, row: CallerRow) -> bool:
    """Whether `value`, which does not meet `row`, has what it looks for as one of its words."""
    return isinstance(value, str) and row.contains in value.split(" ")


def _claim(claims: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = claims
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _refused(cause: str, case: str) -> InvalidToken:
    error = InvalidToken(cause, case=case, advice=str(Advice(case)))
    error.should_retry = None if case in RENEWED else False
    return error


def span_text(seconds: float) -> str:
    span_s, unit = next(
        (one for one in ((86_400, "days"), (3600, "h"), (60, "min")) if seconds >= 2 * one[0]), (1, "s")
    )
    return f"{seconds / span_s:.0f} {unit}"


def _listed(names: Sequence[str]) -> str:
    return _joined([*map(_shown, names[:6])], "or")


def _joined(shown: Sequence[str], word: str) -> str:
    return f" {word} ".join([*shown[:5], *["others"] * (len(shown) > 5)])


def _shown(value: Any) -> str:
    """Return a claim for an error: its sender wrote it, so it is short and has no control character."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except RecursionError:  # its depth was just possible to read
        text = "a nested value"
    shown = f"{_printable(text[:MAX_SHOWN_CHARS])}{'…' if len(text) > MAX_SHOWN_CHARS else ''}"
    return f'"{shown}"' if isinstance(value, str) and " " in shown else shown


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
