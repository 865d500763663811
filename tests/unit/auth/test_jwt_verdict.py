"""The verdict of a caller's token: a row for each attack, and for each kind of token that real issuers write."""

import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gatepass.auth.authenticator import Authenticator
from gatepass.auth.caller import Caller
from gatepass.auth.jwt_callers import JwtCallers
from gatepass.auth.jwt_verdict import MAX_TOKEN_CHARS, KeySet, Token, check_claims
from gatepass.auth.key_sets import KeySetHolder
from gatepass.config.access import JwtIssuer
from gatepass.config.model import Config
from gatepass.errors import CallerError, InvalidApiKey, InvalidToken, NotAllowed
from gatepass.types import ClientRequest
from tests.jwt_signer import ALGORITHMS, Clients, SigningKey, encoded, key_set
from tests.unit.clock import DrivenClock

NOW_S = DrivenClock().wall()
A, B = "https://login.corp.example/realms/a", "https://login.corp.example/realms/b"
RSA, RSA_2, RSA_B = SigningKey("r"), SigningKey("r2", number=1), SigningKey("rb", number=2)
EC, EC_384, ED = SigningKey("e", "ES256"), SigningKey("e3", "ES384"), SigningKey("ed", "EdDSA")
SHORT = SigningKey("short", bits=1024)
KEYS = key_set(RSA, EC, EC_384, ED)
ROW = {"claim": "roles", "contains": "llm-user", "name_from": "preferred_username", "name": "people"}
ENTRY: dict[str, Any] = {"issuer": A, "audience": "api://gatepass", "callers": [ROW]}
ENTRY_B = {**ENTRY, "issuer": B}
UNBOUND = {name: value for name, value in ENTRY.items() if name != "audience"}
OF_A = Clients(A, NOW_S)
claims = OF_A.claims


def authenticator(*entries: dict[str, Any], sets: tuple[bytes, ...] = (KEYS,), clock: DrivenClock) -> Authenticator:
    """The authenticator with an entry of `access.jwt` for each of `sets`, the document of its key set."""
    blocks = {"upstreams": {"u": {"base_url": "https://u/v1"}}, "access": {"jwt": list(entries)}}
    config = Config.model_validate(blocks)

    def holder(number: int, document: bytes) -> KeySetHolder:
        async def fetch() -> tuple[bytes, float]:
            return document, 900.0

        return KeySetHolder(f"access.jwt[{number}]", entries[number]["issuer"], fetch, clock, None, None)

    held = [holder(*numbered) for numbered in enumerate(sets)]
    return Authenticator(config, JwtCallers(config.access.jwt, held, clock))


def made(document: bytes) -> KeySet:
    """The key set with its keys."""
    keys = KeySet(document)
    for _ in keys.make():
        pass
    return keys


def request(text: str) -> ClientRequest:
    bearer = (b"authorization", f"Bearer {text}".encode("latin-1", "replace"))
    return ClientRequest("id", "POST", "/v1/chat/completions", (bearer,), "127.0.0.1", 0.0)


async def caller(text: str, *entries: dict[str, Any], sets: tuple[bytes, ...] = (KEYS,), clock: Any = None) -> Caller:
    clock = clock or DrivenClock()
    known = authenticator(*(entries or (ENTRY,)), sets=sets, clock=clock)
    prepared = await known.prepare(request(text), clock.wall())
    return known.authenticate(request(text), clock.wall(), known=prepared)


async def refusal(text: str, *entries: dict[str, Any], sets: tuple[bytes, ...] = (KEYS,)) -> CallerError:
    """The error for `text`, which contains no part of it."""
    with pytest.raises((InvalidApiKey, NotAllowed)) as raised:
        await caller(text, *entries, sets=sets)
    error = raised.value
    said = f"{error.message} {error.cause} {error.args} {error.__cause__!r}"
    assert not [part for part in text.split(".") if len(part) > 20 and part in said]
    return error


def public_pem(key: SigningKey) -> bytes:
    pem: bytes = key.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def with_secret(secret: bytes, header: dict[str, Any]) -> str:
    """A JWT whose signature is an HMAC with `secret`, as the classic confusion of algorithms makes it."""
    signed = f"{encoded(header)}.{encoded(claims())}"
    return f"{signed}.{encoded(hmac.digest(secret, signed.encode(), 'sha256'))}"


def with_header(header: Any, key: SigningKey = RSA, **changed: Any) -> str:
    return key.sign(claims(**changed), header)


def swapped(header: dict[str, Any]) -> str:
    """A good token whose header was changed afterwards."""
    _, body, signature = RSA.sign(claims()).split(".")
    return f"{encoded(header)}.{body}.{signature}"


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def with_member(name: str, written: str, **changed: Any) -> str:
    """A token with a claim in the issuer's own spelling, as JSON has it and Python has not."""
    return RSA.sign(f"{json.dumps(claims(**{name: ...}, **changed))[:-1]}, {json.dumps(name)}: {written}}}")


GOOD = RSA.sign(claims())
HEAD, BODY, SIGNATURE = GOOD.split(".")
SECRET = encoded(b"k" * 32)
OCT = {"kty": "oct", "k": SECRET, "kid": "o", "use": "sig", "alg": "HS256"}

ALGORITHM = {
    "none, without a signature": (f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{BODY}.", "jwt_algorithm"),
    "none, with the good signature": (swapped({"alg": "none", "kid": "r"}), "jwt_algorithm"),
    "None in another case": (swapped({"alg": "nOnE", "kid": "r"}), "jwt_algorithm"),
    "HS256 with the public key as the secret": (
        with_secret(public_pem(RSA), {"alg": "HS256", "typ": "JWT", "kid": "r"}),
        "jwt_algorithm",
    ),
    "an HMAC that is named RS256": (with_secret(public_pem(RSA), {"alg": "RS256", "kid": "r"}), "jwt_signature"),
    "RS256 in another case": (swapped({"alg": "rs256", "kid": "r"}), "jwt_algorithm"),
    "alg changed to one of the same key": (swapped({"alg": "RS384", "kid": "r"}), "jwt_signature"),
    "alg changed to PS256": (swapped({"alg": "PS256", "kid": "r"}), "jwt_signature"),
    "alg of another family": (swapped({"alg": "ES256", "kid": "r"}), "jwt_kid"),
    "RS256 with the kid of an EC key": (with_header({"kid": "e"}), "jwt_kid"),
    "ES256 with the kid of a P-384 key": (with_header({"kid": "e3"}, EC), "jwt_kid"),
    "EdDSA with the kid of an EC key": (with_header({"kid": "e"}, ED), "jwt_kid"),
    "alg is absent": (with_header({"alg": ...}), "jwt_algorithm"),
    "alg is a list": (with_header({"alg": ["RS256"]}), "jwt_algorithm"),
    "alg is null": (with_header({"alg": None}), "jwt_algorithm"),
    "an elliptic curve without an RFC for tokens": (swapped({"alg": "ES256K", "kid": "e"}), "jwt_algorithm"),
    "a signature of zeros (psychic)": (
        f"{encoded({'alg': 'ES256', 'kid': 'e'})}.{BODY}.{encoded(bytes(64))}",
        "jwt_signature",
    ),
    "a signature that is empty": (f"{HEAD}.{BODY}.", "jwt_signature"),
    "a signature of one byte": (f"{HEAD}.{BODY}.AA", "jwt_signature"),
    "a signature with a bit changed": (
        f"{HEAD}.{BODY}.{'B' if SIGNATURE[0] == 'A' else 'A'}{SIGNATURE[1:]}",
        "jwt_signature",
    ),
    "claims changed under the signature": (f"{HEAD}.{encoded(claims(sub='admin'))}.{SIGNATURE}", "jwt_signature"),
}


@pytest.mark.attack("a caller's token with another algorithm")
@pytest.mark.parametrize("attack", ALGORITHM)
async def test_an_algorithm_that_the_key_is_not_for_is_refused(attack):
    text, case = ALGORITHM[attack]
    error = await refusal(text)
    assert (type(error), error.status, error.case) == (InvalidToken, 401, case)


@pytest.mark.parametrize("key", [RSA, EC, EC_384, ED], ids=lambda key: key.algorithm)
async def test_a_token_of_each_family_is_accepted(key):
    assert (await caller(key.sign(claims()))).name == "people"


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256", "PS384", "PS512"])
async def test_an_rsa_key_without_alg_verifies_each_algorithm_of_rsa(algorithm):
    assert (await caller(RSA.sign(claims(), algorithm=algorithm))).name == "people"
    bound = key_set({**RSA.jwk, "alg": "RS256"})
    assert (await refusal(RSA.sign(claims(), algorithm=algorithm), sets=(bound,))).case == "jwt_kid"


SETS: dict[str, tuple[bytes, str, str]] = {
    "kid of no key": (KEYS, with_header({"kid": "x"}), "jwt_kid"),
    "kid with a path": (KEYS, with_header({"kid": "../../dev/null"}), "jwt_kid"),
    "kid with SQL": (KEYS, with_header({"kid": "r' OR '1'='1"}), "jwt_kid"),
    "kid is a number": (key_set({**RSA.jwk, "kid": 5}), with_header({"kid": 5}), "jwt_kid"),
    "kid is null": (key_set(RSA), with_header({"kid": None}), "jwt_kid"),
    "kid is an object": (KEYS, with_header({"kid": {"r": 1}}), "jwt_kid"),
    "kid in another case": (KEYS, with_header({"kid": "R"}), "jwt_kid"),
    "the set's key has no kid": (key_set({**RSA.jwk, "kid": None}), with_header({}), "jwt_kid"),
    "no kid with two keys": (key_set(RSA, RSA_2), with_header({"kid": ...}), "jwt_kid"),
    "two keys with one kid, the second's": (
        key_set(RSA, {**RSA_2.jwk, "kid": "r"}),
        with_header({"kid": "r"}, RSA_2),
        "jwt_signature",
    ),
    "a key for encryption": (key_set({**RSA.jwk, "use": "enc"}, EC), with_header({}), "jwt_kid"),
    "a use that is no text": (key_set({**RSA.jwk, "use": ["sig"]}, EC), with_header({}), "jwt_kid"),
    "key_ops without verify": (key_set({**RSA.jwk, "key_ops": ["sign", "encrypt"]}, EC), with_header({}), "jwt_kid"),
    "key_ops is a text": (key_set({**RSA.jwk, "key_ops": "verify"}, EC), with_header({}), "jwt_kid"),
    "a shared secret, oct": (key_set(OCT), with_secret(b"k" * 32, {"alg": "HS256", "kid": "o"}), "jwt_algorithm"),
    "a shared secret that says RS256": (key_set({**OCT, "alg": "RS256"}, EC), with_header({"kid": "o"}), "jwt_kid"),
    "RSA of 1024 bits": (key_set(SHORT, EC), SHORT.sign(claims()), "jwt_kid"),
    "a key with another kty": (key_set({**RSA.jwk, "kty": "EC"}, EC), with_header({}), "jwt_kid"),
    "a key with another curve": (key_set({**EC.jwk, "crv": "P-384"}, RSA), with_header({}, EC), "jwt_kid"),
    "a point that is not on the curve": (key_set({**EC.jwk, "y": EC.jwk["x"]}, RSA), with_header({}, EC), "jwt_kid"),
    "a modulus that is a number": (key_set({**RSA.jwk, "n": 7}, EC), with_header({}), "jwt_kid"),
    "a modulus that is no base64": (key_set({**RSA.jwk, "n": "§§"}, EC), with_header({}), "jwt_kid"),
    "a modulus that is absent": (key_set({"kty": "RSA", "kid": "r", "e": "AQAB"}, EC), with_header({}), "jwt_kid"),
    "an exponent of 1": (key_set({**RSA.jwk, "e": "AQ"}, EC), with_header({}), "jwt_kid"),
    "keys that are no objects": (
        KEYS.replace(b"[", b'[null, 5, "r", [], {}, ', 1),
        with_header({"kid": "x"}),
        "jwt_kid",
    ),
    "a key behind the hundredth": (key_set(*[EC.jwk] * 100, RSA), with_header({}), "jwt_kid"),
}


@pytest.mark.attack("a caller's token with a key that is not its issuer's")
@pytest.mark.parametrize("attack", SETS)
async def test_a_key_that_is_not_for_this_signature_verifies_nothing(attack):
    document, text, case = SETS[attack]
    error = await refusal(text, sets=(document,))
    assert (type(error), error.case) == (InvalidToken, case)


async def test_a_kid_that_is_no_text_is_named_as_the_fault():
    error = await refusal(with_header({"kid": 5}))
    assert error.cause == "The kid of the token is 5, which is no text."


async def test_a_token_without_kid_has_the_only_key_that_fits():
    assert (await caller(EC.sign(claims(), {"kid": ...}), sets=(key_set(RSA, EC, EC_384),))).name == "people"


async def test_keys_that_cannot_be_used_do_not_hide_the_others():
    broken: list[Any] = [{"kty": "AKP", "kid": "r"}, {"kid": "r"}, {"kty": None}, [], {**RSA.jwk, "use": "enc"}, OCT]
    good = {**RSA.jwk, "x5c": ["AAAA"], "x5u": "https://evil.example", "exp": 5, "extra": [1]}
    assert (await caller(GOOD, sets=(key_set(*broken, good),))).name == "people"
    twice = key_set(RSA_2.jwk | {"kid": "r"}).replace(b'"kid": "r"', b'"kid": "r", "kid": "r2"')
    assert (await caller(RSA_2.sign(claims()), sets=(twice,))).name == "people"


async def test_the_private_part_of_a_published_key_is_not_read():
    private = json.loads(ALGORITHMS["RS256"].to_jwk(RSA.private))
    document = key_set({**private, "kid": "r", "key_ops": ["sign", "verify"]})
    assert (await caller(GOOD, sets=(document,))).name == "people"
    token = Token.read(GOOD)
    assert token is not None
    found = made(document).find(token)
    assert found is not None
    assert not hasattr(found, "private_numbers")


@pytest.mark.parametrize(
    "document",
    [
        *(b"<html>", b"[]", b'{"keys": {}}', b"{}", b"\xff\xfe", b"", b'{"keys": ' + b"[" * 20_000, b'{"keys": []}'),
        *(key_set(OCT), key_set({**RSA.jwk, "use": "enc"}), key_set({**RSA.jwk, "alg": "RSA-OAEP"})),
        *(key_set({**EC.jwk, "crv": "secp256k1"}), b'{"keys": [null, 5, "r", [], {}]}'),
    ],
)
def test_a_document_that_is_no_key_set_says_so_without_quoting_it(document):
    with pytest.raises(ValueError, match=r"^its key set (is no JSON|has no list `keys`|has no keys for signatures.*)$"):
        made(document)


UNUSABLE: dict[str, tuple[Any, str]] = {
    "RSA of 1024 bits": ({**SHORT.jwk, "kid": "r"}, "kid r: it has 1024 bits, not 2048 to 16384"),
    "RSA of 32768 bits": ({**RSA.jwk, "n": "_" * 5462}, "kid r: it has 32768 bits, not 2048 to 16384"),
    "n is absent": ({name: value for name, value in RSA.jwk.items() if name != "n"}, "kid r: its kty, e are no"),
    "n is a number": ({**RSA.jwk, "n": 7}, "kid r: its kty, n, e are no public key"),
    "n is a list": ({**RSA.jwk, "n": [[]]}, "kid r: its kty, n, e are no public key"),
    "an exponent of 1": ({**RSA.jwk, "e": "AQ"}, "kid r: its kty, n, e are no public key"),
    "an exponent of 0": ({**RSA.jwk, "e": "AA"}, "kid r: its kty, n, e are no public key"),
    "a point that is not on the curve": (
        {**EC.jwk, "kid": "r", "y": EC.jwk["x"]},
        "its kty, crv, x, y are no public key",
    ),
    "a point of another length": ({**EC.jwk, "kid": "r", "x": "AA"}, "its kty, crv, x, y are no public key"),
    "Ed25519 of another length": ({**ED.jwk, "kid": "r", "x": "AA"}, "its kty, crv, x are no public key"),
    "Ed25519 without x": ({"kty": "OKP", "crv": "Ed25519", "kid": "r"}, "its kty, crv are no public key"),
    "a kind without an RFC for tokens": (
        {"kty": "AKP", "alg": "ML-DSA-44", "kid": "r"},
        "kid r: gatepass verifies no signatures with kty AKP, alg ML-DSA-44",
    ),
    "a curve without one": (
        {**EC.jwk, "crv": "secp256k1", "kid": 5},
        "kid 5: gatepass verifies no signatures with kty EC",
    ),
    "an object without members": ({}, "number 1: gatepass verifies no signatures with a key without kty"),
    "no object": (None, "number 1: it is no object"),
}


@pytest.mark.parametrize("fault", UNUSABLE)
async def test_a_key_that_cannot_be_made_hides_no_good_one_of_its_kid_and_is_told(fault):
    bad, why = UNUSABLE[fault]
    document = key_set(bad, RSA, EC, {**RSA.jwk, "use": "enc"})
    keys = made(document)
    assert (len(keys), keys.problem[:30], why in keys.problem) == (
        2,
        "1 of 3 keys cannot be used (" + keys.problem[28:30],
        True,
    )
    assert (await caller(GOOD, sets=(document,))).name == "people"
    with pytest.raises(
        ValueError, match="its key set has no keys for signatures; 1 of 1 keys cannot be used"
    ) as raised:
        made(key_set(bad))
    assert why in str(raised.value)
    assert not [text for text in (RSA.jwk["n"], EC.jwk["x"]) if text in str(raised.value)]


def test_the_first_fault_of_several_is_told():
    keys = made(key_set(RSA, {**RSA.jwk, "kid": "a", "n": 1}, {**SHORT.jwk, "kid": "b"}, OCT))
    assert keys.problem == "3 of 4 keys cannot be used (kid a: its kty, n, e are no public key)"
    assert made(KEYS).problem == ""


def test_of_a_set_the_first_hundred_keys_count():
    assert len(made(key_set(*[EC.jwk] * 99, RSA, ED))) == 100
    with pytest.raises(ValueError, match="100 of 100 keys cannot be used"):
        made(key_set(*[{**RSA.jwk, "n": ""}] * 100, RSA))


def test_keys_are_made_one_by_one():
    keys = KeySet(key_set(RSA, EC, OCT, ED))
    found = [len(keys) for _ in keys.make()]
    assert found == [1, 2, 2, 3]


ISSUER = {
    "the other entry's key": with_header({"kid": "r"}, RSA_B, iss=A),
    "the other entry's key and kid": with_header({"kid": "rb"}, RSA_B, iss=A),
    "the other entry's key without kid": with_header({"kid": ...}, RSA_B, iss=A),
    "its own key in the name of the other": with_header({"kid": "r"}, RSA, iss=B),
}


@pytest.mark.attack("a caller's token of another issuer")
@pytest.mark.parametrize("attack", ISSUER)
async def test_a_key_is_valid_for_its_own_issuer_alone(attack):
    error = await refusal(ISSUER[attack], ENTRY, ENTRY_B, sets=(key_set(RSA), key_set(RSA_B)))
    assert error.case in ("jwt_kid", "jwt_signature")


@pytest.mark.attack("a caller's token of another issuer")
@pytest.mark.parametrize(
    "issuer",
    [
        f"{A}/",
        A.upper(),
        A.replace("https", "http"),
        f" {A}",
        f"{A}?x",
        f"{A}\x00",
        [A],
        {A: 1},
        5,
        None,
        True,
        "",
        ...,
    ],
)
async def test_an_issuer_that_differs_by_a_byte_or_a_type_is_unknown(issuer):
    assert (await refusal(RSA.sign(claims(iss=issuer)))).case == "jwt_issuer"


async def test_a_token_is_accepted_by_the_entry_of_its_issuer_alone():
    # the same subject of two issuers is two callers
    sets = key_set(RSA), key_set(RSA_B)
    found = [await caller(RSA.sign(claims()), ENTRY, ENTRY_B, sets=sets)]
    found.append(await caller(RSA_B.sign(claims(iss=B)), ENTRY, ENTRY_B, sets=sets))
    assert found[0].identity != found[1].identity
    other = {**ENTRY_B, "audience": "api://other"}
    assert (await refusal(RSA_B.sign(claims(iss=B)), ENTRY, other, sets=sets)).case == "jwt_audience"


async def test_an_entry_with_two_issuers_has_one_set_of_keys():
    entry = {**ENTRY, "issuer": [A, B]}
    first, second = await caller(GOOD, entry), await caller(RSA.sign(claims(iss=B)), entry)
    assert (first.name, second.name, first.identity == second.identity) == ("people", "people", False)
    error = await refusal(RSA.sign(claims(iss=f"{A}x")), entry)
    assert error.cause == f"The token is of the issuer {A}x. access.jwt has {A} or {B}."


GUID, OTHER_GUID = "11111111-2222-3333-4444-55555555555a", "11111111-2222-3333-4444-55555555555b"
ENTRA_1, ENTRA_2 = f"https://sts.windows.net/{GUID}/", f"https://login.microsoftonline.com/{GUID}/v2.0"
PAIRS: dict[str, tuple[list[str], str, str, bool]] = {
    # the issuers of one entry, two of their tokens, and whether these are of one caller
    "both of a tenant": ([ENTRA_2, ENTRA_1], ENTRA_1, ENTRA_2, True),
    "in the other order": ([ENTRA_1, ENTRA_2], ENTRA_2, ENTRA_1, True),
    "beside a third issuer": ([A, ENTRA_1, ENTRA_2], ENTRA_1, ENTRA_2, True),
    "two clusters": ([A, B], A, B, False),
    "two tenants": ([ENTRA_2, ENTRA_1.replace(GUID, OTHER_GUID)], ENTRA_2, ENTRA_1.replace(GUID, OTHER_GUID), False),
    "v2 of two tenants": (
        [ENTRA_2, ENTRA_2.replace(GUID, OTHER_GUID)],
        ENTRA_2,
        ENTRA_2.replace(GUID, OTHER_GUID),
        False,
    ),
    "no GUID": (
        [ENTRA_1.replace(GUID, "t"), ENTRA_2.replace(GUID, "t")],
        ENTRA_1.replace(GUID, "t"),
        ENTRA_2.replace(GUID, "t"),
        False,
    ),
    "no slash": ([ENTRA_1[:-1], ENTRA_2], ENTRA_1[:-1], ENTRA_2, False),
    "another path": ([ENTRA_1 + "x", ENTRA_2], ENTRA_1 + "x", ENTRA_2, False),
    "an application's v1": ([ENTRA_1, ENTRA_2 + "/x"], ENTRA_1, ENTRA_2 + "/x", False),
    "plain HTTP": ([ENTRA_1.replace("https", "http"), ENTRA_2], ENTRA_1.replace("https", "http"), ENTRA_2, False),
}


@pytest.mark.parametrize("pair", PAIRS)
async def test_both_issuers_of_an_entra_tenant_are_one_and_others_stay_apart(pair):
    issuers, one, other, is_one = PAIRS[pair]
    entry = {**ENTRY, "issuer": issuers, "jwks": "https://keys.example"}
    first, second = await caller(RSA.sign(claims(iss=one)), entry), await caller(RSA.sign(claims(iss=other)), entry)
    assert (first.identity == second.identity, first.name) == (is_one, second.name)
    assert (await caller(RSA.sign(claims(iss=one, sub="u2")), entry)).identity != first.identity


async def test_v1_and_v2_of_two_entries_are_two_callers():
    entries = {**ENTRY, "issuer": ENTRA_1}, {**ENTRY, "issuer": ENTRA_2}
    sets = key_set(RSA), key_set(RSA)
    found = [await caller(RSA.sign(claims(iss=iss)), *entries, sets=sets) for iss in (ENTRA_1, ENTRA_2)]
    assert found[0].identity != found[1].identity


async def test_an_issuer_of_entra_that_is_not_listed_gets_a_hint():
    entra = {**ENTRY, "issuer": "https://login.microsoftonline.com/t/v2.0"}
    error = await refusal(RSA.sign(claims(iss="https://sts.windows.net/t/")), entra)
    assert (error.case, "https://sts.windows.net/t/" in error.cause) == ("jwt_entra", True)
    error = await refusal(RSA.sign(claims(iss="https://sts.windows.net/t")), {**ENTRY, "issuer": V1})
    assert error.case == "jwt_entra"


V1, V2 = "https://sts.windows.net/t/", "https://login.microsoftonline.com/t/v2.0"
OTHER_TENANTS = {
    "v2 of another tenant": ("https://login.microsoftonline.com/u/v2.0", (V1, V2), "jwt_tenant"),
    "v1 of another tenant": ("https://sts.windows.net/u/", (V2,), "jwt_tenant"),
    "a tenant whose name begins the same": ("https://sts.windows.net/tt/", (V1,), "jwt_tenant"),
    "of this tenant, one of two configured": (V2, ("https://login.microsoftonline.com/u/v2.0", V1), "jwt_entra"),
    "no tenant is configured": (V2, (A,), "jwt_issuer"),
    "no token of Entra": (B, (V1, V2), "jwt_issuer"),
}


@pytest.mark.parametrize("kind", OTHER_TENANTS)
async def test_another_tenant_of_entra_is_told_so(kind):
    issuer, known, case = OTHER_TENANTS[kind]
    error = await refusal(RSA.sign(claims(iss=issuer)), {**ENTRY, "issuer": list(known)})
    assert (error.case, issuer in error.cause) == (case, True)
    assert ("another" in error.message or "configured tenant" in error.message) == (case == "jwt_tenant")


@pytest.mark.parametrize(
    ("wrap", "is_known"), [('"{}"', 1), ("'{}'", 1), ("Bearer {}", 1), ('bearer "{}"', 1), ("{}/{}", 0)]
)
async def test_a_token_in_quotes_or_behind_a_second_bearer_is_told_so(wrap, is_known):
    error = await refusal(wrap.format(GOOD, GOOD))
    assert error.case == ("jwt_dressed" if is_known else "jwt_opaque")


async def test_a_key_that_is_not_known_is_named_as_a_key():
    error = await refusal("gp-0123456789abcdef")
    assert (error.code, error.cause[:36]) == ("invalid_api_key", "The API key is not known to gatepass")
    error = await refusal("sk-of-another-gateway-4711")
    assert (error.code, "neither a known API key nor a JWT. Check the client's API key" in error.message) == (
        "invalid_token",
        True,
    )


async def test_a_token_without_audience_is_told_what_its_issuer_can_do():
    cognito = {**ENTRY, "issuer": "https://cognito-idp.eu-west-1.amazonaws.com/p"}
    error = await refusal(RSA.sign(claims(iss=cognito["issuer"], aud=..., client_id="c")), cognito)
    assert (error.case, "require: {client_id: [CLIENT]}" in error.message) == ("jwt_no_audience", True)
    assert "Keycloak" not in error.message
    assert "Keycloak" in (await refusal(RSA.sign(claims(aud=...)))).message  # its issuer has /realms/
    for aud in ("account", ["account"]):
        assert "Keycloak" in (await refusal(RSA.sign(claims(iss=cognito["issuer"], aud=aud)), cognito)).message


async def test_the_audience_of_microsoft_graph_is_named_at_a_configured_tenant_too():
    error = await refusal(RSA.sign(claims(aud="00000003-0000-0000-c000-000000000000")))
    assert "has the audience 00000003-0000-0000-c000-000000000000 of Microsoft Graph" in error.cause


@pytest.mark.parametrize(
    ("late_s", "said"), [(95, "95 s"), (119, "119 s"), (120, "2 min"), (3 * 3600, "3 h"), (400_023, "5 days")]
)
async def test_a_token_that_expired_long_ago_says_so_in_days(late_s, said):
    assert (await refusal(RSA.sign(claims(exp=NOW_S - late_s)))).cause == f"The token expired {said} ago."


TIMES: dict[str, tuple[dict[str, Any], str]] = {
    "expired": ({"exp": NOW_S - 95}, "jwt_expired"),
    "expired just now": ({"exp": NOW_S - 30}, "jwt_expired"),
    "before 1970": ({"exp": -5}, "jwt_expired"),
    "not yet": ({"nbf": NOW_S + 31}, "jwt_early"),
    "signed in the future": ({"iat": NOW_S + 31}, "jwt_early"),
    "exp is absent": ({"exp": ...}, "jwt_time"),
    "exp is null": ({"exp": None}, "jwt_time"),
    "exp is a text": ({"exp": str(NOW_S + 300)}, "jwt_time"),
    "exp is a date": ({"exp": "2036-01-01T00:00:00Z"}, "jwt_time"),
    "exp is true": ({"exp": True}, "jwt_time"),
    "exp is a list": ({"exp": [NOW_S + 300]}, "jwt_time"),
    "nbf is a text": ({"nbf": "0"}, "jwt_time"),
    "nbf is null": ({"nbf": None}, "jwt_time"),
    "iat is false": ({"iat": False}, "jwt_time"),
    "exp in milliseconds of a far time": ({"exp": 4e12}, "jwt_time"),
    "exp of 400 digits": ({"exp": 10**400}, "jwt_time"),
    "exp of minus 400 digits": ({"exp": -(10**400)}, "jwt_time"),
}


@pytest.mark.attack("a caller's token that has ended, or is of no time")
@pytest.mark.parametrize("attack", TIMES)
async def test_a_time_that_is_past_or_no_time_is_refused(attack):
    changed, case = TIMES[attack]
    error = await refusal(RSA.sign(claims(**changed)))
    assert (type(error), error.status, error.case) == (InvalidToken, 401, case)


@pytest.mark.attack("a caller's token that has ended, or is of no time")
@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("written", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e308"])
async def test_a_number_that_json_does_not_have_is_no_time(name, written):
    assert (await refusal(with_member(name, written))).case == "jwt_time"


async def test_a_number_of_5000_digits_is_no_token():
    assert (await refusal(with_member("exp", "9" * 5000))).case == "jwt_opaque"


@pytest.mark.parametrize(
    "changed", [{"exp": NOW_S - 29}, {"nbf": NOW_S + 30}, {"iat": NOW_S + 30}, {"iat": ...}, {"exp": NOW_S + 0.5}]
)
async def test_clocks_may_differ_by_thirty_seconds(changed):
    assert (await caller(RSA.sign(claims(**changed)))).name == "people"


async def test_the_message_says_how_long_ago_a_token_expired():
    assert (await refusal(RSA.sign(claims(exp=NOW_S - 95)))).cause == "The token expired 95 s ago."


HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "crit": ({"crit": ["exp"]}, "jwt_bound"),
    "crit that is empty": ({"crit": []}, "jwt_bound"),
    "crit with b64 (RFC 7797)": ({"crit": ["b64"], "b64": False}, "jwt_bound"),
    "b64 without crit": ({"b64": False}, "jwt_signature"),
    "typ of an ID token of logout": ({"typ": "logout+jwt"}, "jwt_type"),
    "typ of a DPoP proof": ({"typ": "dpop+jwt"}, "jwt_type"),
    "typ of a security event": ({"typ": "secevent+jwt"}, "jwt_type"),
    "typ of a client's login": ({"typ": "client-authentication+jwt"}, "jwt_type"),
    "typ JOSE": ({"typ": "JOSE"}, "jwt_type"),
    "typ is a list": ({"typ": ["JWT"]}, "jwt_type"),
    "typ is null": ({"typ": None}, "jwt_type"),
    "typ with a blank": ({"typ": "JWT "}, "jwt_type"),
}


@pytest.mark.attack("a caller's token with tricks in its header")
@pytest.mark.parametrize("attack", HEADERS)
async def test_a_header_that_changes_the_meaning_is_refused(attack):
    header, case = HEADERS[attack]
    assert (await refusal(with_header(header))).case == case


LEADS: dict[str, dict[str, Any]] = {
    "jku": {"jku": "https://evil.example/keys"},
    "jwk": {"jwk": RSA_B.jwk},
    "x5u": {"x5u": "https://evil.example/cert"},
    "x5c": {"x5c": [encoded(public_pem(RSA_B))]},
    "x5t": {"x5t": "AAAA", "x5t#S256": "AAAA"},
}


@pytest.mark.attack("a caller's token with tricks in its header")
@pytest.mark.parametrize("name", LEADS)
async def test_a_key_that_the_header_brings_leads_nowhere(name):
    assert (await refusal(with_header(LEADS[name], RSA_B))).case == "jwt_kid"
    assert (await refusal(with_header({**LEADS[name], "kid": "r"}, RSA_B))).case == "jwt_signature"
    # an issuer may write them: they are not read
    assert (await caller(with_header(LEADS[name]))).name == "people"


@pytest.mark.parametrize(
    "kind", ["at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+jwt", "JWT", "jwt", "Jwt", ...]
)
async def test_typ_is_accepted_in_any_case_or_absent(kind):
    assert (await caller(with_header({"typ": kind}))).name == "people"


@pytest.mark.parametrize("header", [{"cty": "JWT"}, {"zip": "DEF"}, {"b64": True}, {"nonce": "n"}], ids=str)
async def test_a_header_without_meaning_for_a_signed_object_is_ignored(header):
    assert (await caller(with_header(header))).name == "people"


FORMS = {
    "JWE": (
        ".".join([encoded({"alg": "RSA-OAEP", "enc": "A256GCM"}), "a" * 30, "b" * 16, "c" * 300, "d" * 22]),
        "jwt_encrypted",
    ),
    "JWE with alg dir": (".".join([encoded({"alg": "dir"}), "", "b" * 16, "c" * 300, "d" * 22]), "jwt_encrypted"),
    "JWT in JWT": (RSA.sign(GOOD, {"cty": "JWT"}), "jwt_opaque"),
    "JWT as a JSON text in JWT": (RSA.sign(json.dumps(GOOD), {"cty": "JWT"}), "jwt_opaque"),
    "claims that are a list": (RSA.sign([claims()]), "jwt_opaque"),
    "claims that are null": (RSA.sign("null"), "jwt_opaque"),
    "claims that are compressed": (RSA.sign(b"\x78\x9c\x03\x00", {"zip": "DEF"}), "jwt_opaque"),
    "claims in UTF-16": (RSA.sign(json.dumps(claims()).encode("utf-16")), "jwt_opaque"),
    "claims in UTF-16 without a mark": (RSA.sign(json.dumps(claims()).encode("utf-16-le")), "jwt_opaque"),
    "a header in UTF-32": (RSA.sign(claims(), json.dumps({"alg": "RS256"}).encode("utf-32-be")), "jwt_opaque"),
    "claims with a byte order mark": (RSA.sign(json.dumps(claims()).encode("utf-8-sig")), "jwt_opaque"),
    "claims in UTF-16 with halves of characters": (RSA.sign(b'{"iss": "\xff\xfe"}'), "jwt_opaque"),
    "claims that end early": (RSA.sign(json.dumps(claims())[:-2]), "jwt_opaque"),
    "claims with more behind": (RSA.sign(json.dumps(claims()) + "{}"), "jwt_opaque"),
    "a header that is a list": (RSA.sign(claims(), ["RS256"]), "jwt_opaque"),
    "a header that is deeply nested": (
        RSA.sign(claims(), '{"alg": "RS256", "x": ' + nested(5_000) + "}"),
        "jwt_opaque",
    ),
    "claims that are deeply nested": (with_member("x", nested(5_000)), "jwt_opaque"),
    "padding": (f"{HEAD}.{BODY}.{SIGNATURE}==", "jwt_opaque"),
    "padding in the middle": (f"{HEAD}=.{BODY}.{SIGNATURE}", "jwt_opaque"),
    "a plus": (f"{HEAD}.{BODY}.+{SIGNATURE[1:]}", "jwt_opaque"),
    "a line break": (f"{HEAD}.{BODY}.\n{SIGNATURE}", "jwt_opaque"),
    "a blank inside": (f"{HEAD}. {BODY}.{SIGNATURE}", "jwt_opaque"),
    "a byte that is not ASCII": (f"{HEAD}.{BODY}.\xe9{SIGNATURE}", "jwt_opaque"),
    "a part of a length that base64 does not have": (f"{HEAD}A.{BODY}.{SIGNATURE}", "jwt_opaque"),
    "two parts": (f"{HEAD}.{BODY}", "jwt_opaque"),
    "four parts": (f"{GOOD}.", "jwt_opaque"),
    "an empty header": (f".{BODY}.{SIGNATURE}", "jwt_opaque"),
    "the JSON serialization": (json.dumps({"protected": HEAD, "payload": BODY, "signature": SIGNATURE}), "jwt_opaque"),
    "an opaque token of Google": ("ya29.a0AfB_byC1234567890abcdefghijklmnop", "jwt_opaque"),
    "dots alone": ("..", "jwt_opaque"),
    "1 MB without a dot": ("A" * 1_000_000, "jwt_size"),
    "1 MB of dots": ("A." * 500_000, "jwt_size"),
}


@pytest.mark.attack("a caller's token that is oversized or nested")
@pytest.mark.parametrize("attack", FORMS)
async def test_a_text_that_is_no_signed_jwt_is_refused(attack):
    text, case = FORMS[attack]
    error = await refusal(text)
    assert (type(error), error.status, error.case) == (InvalidToken, 401, case)


@pytest.mark.attack("a caller's token that is oversized or nested")
async def test_a_token_is_read_up_to_its_bound():
    empty = RSA.sign(claims(x=""))
    text = RSA.sign(claims(x="y" * ((MAX_TOKEN_CHARS - len(empty)) * 3 // 4 - 1)))
    assert MAX_TOKEN_CHARS - 4 < len(text) <= MAX_TOKEN_CHARS
    assert (await caller(text)).name == "people"
    longer = RSA.sign(claims(x="y" * MAX_TOKEN_CHARS))
    error = await refusal(longer)
    assert error.cause == f"The token has {len(longer)} characters. gatepass reads up to 16384."
    assert (error.case, error.should_retry) == ("jwt_size", False)
    for name in ("aud", "iss"):
        assert len((await refusal(RSA.sign(claims(**{name: "y" * 8_000})))).message) < 1000


@pytest.mark.attack("a caller's token that is oversized or nested")
@pytest.mark.parametrize("name", ["iss", "aud", "typ"])
async def test_a_value_that_is_just_possible_to_read_is_refused_or_ignored(name):
    found = set()
    for depth in range(920, 1000):
        try:
            found.add((await caller(with_member(name, nested(depth)))).name)
        except InvalidToken as error:
            found.add(error.case)
    assert found == {"jwt_opaque", {"iss": "jwt_issuer", "aud": "jwt_audience", "typ": "people"}[name]}


@pytest.mark.parametrize("name", ["alg", "kid", "typ", "aud", "azp"])
def test_a_value_that_can_be_read_and_not_written_is_refused(name):
    # Python reads JSON of a depth that it may not be able to write, by its version and the stack
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    header = {"alg": "RS256", "kid": "r", **({name: value} if name in ("alg", "kid", "typ") else {})}
    required = {**UNBOUND, "require": {"azp": ["a"]}}
    entry = JwtIssuer.model_validate(required if name == "azp" else ENTRY)
    with pytest.raises(InvalidToken, match="a nested value"):
        check_claims(Token("", header, claims(**{name: value})), entry, NOW_S)


async def test_the_last_of_two_members_counts_in_each_check():
    # PyJWT reads the header again, by the same rule (RFC 7519 4)
    assert (await caller(RSA.sign(f'{{"aud": "x", {json.dumps(claims())[1:]}'))).name == "people"
    assert (await refusal(RSA.sign(f'{json.dumps(claims())[:-1]}, "aud": "x"}}'))).case == "jwt_audience"
    head = '{"alg": "none", "alg": "RS256", "kid": "r"}'
    assert (await caller(RSA.sign(claims(), head))).name == "people"
    assert (await refusal(RSA.sign(claims(), '{"alg": "RS256", "kid": "r", "alg": "none"}'))).case == "jwt_algorithm"


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "preferred_username", "roles"])
async def test_half_a_character_breaks_no_error_and_no_name(name):
    text = with_member(name, '"\\ud800"')
    if name in ("sub", "preferred_username"):
        found = await caller(text)
        assert (found.identity + found.user).encode()
    else:
        assert (await refusal(text)).message.encode()


async def test_a_claim_in_an_error_has_no_control_character():
    error = await refusal(RSA.sign(claims(aud="a\r\nx-injected: 1\x1b[31m\u202e")))
    assert 'The token has the audience "a??x-injected: 1?[31m?".' in error.cause


CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "aud is another": ({"aud": "api://other"}, "jwt_audience"),
    "aud in another case": ({"aud": "API://gatepass"}, "jwt_audience"),
    "aud with a slash": ({"aud": "api://gatepass/"}, "jwt_audience"),
    "aud begins with it": ({"aud": "api://gatepass.evil"}, "jwt_audience"),
    "aud with a blank between two": ({"aud": "x api://gatepass"}, "jwt_audience"),
    "aud is absent": ({"aud": ...}, "jwt_keycloak"),
    "aud is null": ({"aud": None}, "jwt_keycloak"),
    "aud is a number": ({"aud": 5}, "jwt_audience"),
    "aud is empty": ({"aud": ""}, "jwt_audience"),
    "aud is an empty list": ({"aud": []}, "jwt_audience"),
    "aud is an object": ({"aud": {"api://gatepass": 1}}, "jwt_audience"),
    "aud is a list in a list": ({"aud": [["api://gatepass"]]}, "jwt_audience"),
    "aud is Keycloak's account": ({"aud": "account"}, "jwt_keycloak"),
    "aud is a list of Keycloak's account": ({"aud": ["account"]}, "jwt_keycloak"),
    "aud is Microsoft Graph": ({"aud": "00000003-0000-0000-c000-000000000000"}, "jwt_graph"),
    "aud is the URL of Microsoft Graph": ({"aud": "https://graph.microsoft.com"}, "jwt_graph"),
    "aud is the same with a slash": ({"aud": "https://graph.microsoft.com/"}, "jwt_graph"),
    "sub is absent": ({"sub": ...}, "jwt_subject"),
    "sub is empty": ({"sub": ""}, "jwt_subject"),
    "sub is a number": ({"sub": 5}, "jwt_subject"),
    "sub is null": ({"sub": None}, "jwt_subject"),
    "sub is a list": ({"sub": ["u1"]}, "jwt_subject"),
    "cnf, DPoP": ({"cnf": {"jkt": "x"}}, "jwt_bound"),
    "cnf, mutual TLS": ({"cnf": {"x5t#S256": "x"}}, "jwt_bound"),
    "cnf is null": ({"cnf": None}, "jwt_bound"),
    "nonce": ({"nonce": "n"}, "jwt_id"),
    "at_hash": ({"at_hash": "n"}, "jwt_id"),
    "c_hash": ({"c_hash": "n"}, "jwt_id"),
    "typ ID of Keycloak": ({"typ": "ID"}, "jwt_id"),
    "typ ID in another case": ({"typ": "Id"}, "jwt_id"),
    "typ ID of Keycloak with a scope": ({"typ": "ID", "scope": "openid"}, "jwt_id"),
}


@pytest.mark.attack("a caller's token with claims of odd types")
@pytest.mark.parametrize("attack", CLAIMS)
async def test_a_claim_of_another_value_or_type_is_refused(attack):
    changed, case = CLAIMS[attack]
    error = await refusal(RSA.sign(claims(**changed)))
    assert (type(error), error.status, error.case) == (InvalidToken, 401, case)


@pytest.mark.parametrize(
    "aud", ["api://gatepass", ["api://gatepass"], ["x", 5, None, "api://gatepass"], ["account", "api://gatepass"]]
)
async def test_one_audience_of_several_suffices(aud):
    assert (await caller(RSA.sign(claims(aud=aud)))).name == "people"


async def test_audience_error_says_both():
    error = await refusal(RSA.sign(claims(aud=["x", "y"])), {**ENTRY, "audience": ["api://a", "api://b"]})
    assert error.cause == 'The token has the audience ["x", "y"]. gatepass expects api://a or api://b.'


@pytest.mark.parametrize("azp", ["other", "", 5, None, ["open-webui"], {"open-webui": 1}, "open-webui ", ...])
async def test_require_takes_the_place_of_the_audience(azp):
    entry = {**UNBOUND, "require": {"azp": ["open-webui"], r"a\.b.c": ["d"]}}
    nested_claim = {"a.b": {"c": "d"}}
    assert (await caller(RSA.sign(claims(aud="account", azp="open-webui", **nested_claim)), entry)).name == "people"
    assert (await refusal(RSA.sign(claims(aud="account", azp=azp, **nested_claim)), entry)).case == "jwt_require"
    assert (await refusal(RSA.sign(claims(aud="account", azp="open-webui")), entry)).case == "jwt_require"


OF_KEYCLOAK = [
    *("Refresh", "Offline", "Logout", "Serialized-ID", "InitialAccessToken", "RegistrationAccessToken", "ORGIVT"),
    *("reset-credentials", "verify-email", "update-email", "execute-actions", "idp-verify-account-via-email"),
    *("impersonate", "SERIALIZED-id", "refresh", "refresh ", " Offline", "\tLogout\n"),
]


@pytest.mark.attack("a caller's token that its issuer wrote for itself")
@pytest.mark.parametrize("kind", OF_KEYCLOAK)
@pytest.mark.parametrize("header", [{}, {"typ": "at+jwt"}], ids=["JWT", "at+jwt"])
async def test_a_token_that_keycloak_wrote_for_itself_is_refused_by_its_kind(kind, header):
    text = with_header(header, typ=kind, scope="openid", azp="c")
    for tokens in (["access"], ["id"], ["access", "id"]):
        error = await refusal(text, {**ENTRY, "tokens": tokens})
        assert (error.status, error.case) == (401, "jwt_refresh")
        if kind.strip().lower() in ("refresh", "offline"):
            assert error.cause == "This is a refresh token. gatepass expects an access token."
            continue
        shown = "".join(char if char.isprintable() else "?" for char in kind)
        assert error.cause == f"The claim typ of the token is {shown}, which no access token has."


@pytest.mark.parametrize(
    ("header", "more"),
    [
        ({"alg": "HS512"}, {"typ": "Refresh"}),  # Keycloak signs it with a secret, for the issuer as its audience
        ({"alg": "HS256"}, {"typ": "Offline", "aud": "https://login.corp.example/realms/a"}),
        ({}, {"token_type": "refresh"}),
        ({}, {"token_use": "refresh_token"}),
        ({"typ": "refresh+jwt"}, {}),
        ({"typ": "rt+jwt"}, {}),
    ],
)
def test_a_refresh_token_is_named_as_one(header, more):
    token = Token("", {"alg": "RS256", "kid": "r", "typ": "JWT", **header}, claims(**more))
    with pytest.raises(InvalidToken, match="This is a refresh token") as refused:
        check_claims(token, JwtIssuer.model_validate(ENTRY), NOW_S)
    assert refused.value.advice == "Send the access token that came beside it."


@pytest.mark.parametrize(
    "more",
    [{"token_type": "refreshing"}, {"token_use": "access"}, {"token_type": ["refresh"]}, {"scope": "offline_access"}],
)
def test_an_access_token_that_mentions_a_refresh_is_none(more):
    check_claims(Token("", {"alg": "RS256", "kid": "r"}, claims(**more)), JwtIssuer.model_validate(ENTRY), NOW_S)


def test_an_audience_with_a_blank_is_quoted():
    entry = JwtIssuer.model_validate({**ENTRY, "audience": ["My App", "b"]})
    with pytest.raises(InvalidToken) as refused:
        check_claims(Token("", {"alg": "RS256", "kid": "r"}, claims(aud="Other App")), entry, NOW_S)
    assert refused.value.cause == 'The token has the audience "Other App". gatepass expects "My App" or b.'


@pytest.mark.parametrize(
    "kind", ["Bearer", "bearer", "JWT", "access", "anything", "", 5, None, ["Refresh"], {"a": "ID"}]
)
async def test_any_other_claim_typ_is_no_fault(kind):
    assert (await caller(with_header({}, typ=kind))).name == "people"


ID, BOTH = {**ENTRY, "tokens": ["id"]}, {**ENTRY, "tokens": ["access", "id"]}
GOOGLE = {"azp": "32555940559.apps.googleusercontent.com", "email": "a@corp.example", "email_verified": True}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # header, claims, what the three kinds of entries say: access, id, both
    "an access token of RFC 9068": ({"typ": "at+jwt"}, {"scope": "openid", "client_id": "c", "jti": "1"}, "+a+"),
    "the same without a scope": ({"typ": "at+jwt"}, {}, "+a+"),
    "the long typ": ({"typ": "application/AT+JWT"}, {}, "+a+"),
    "an access token of Entra": ({}, {"scp": "chat"}, "+a+"),
    "an access token of Keycloak": ({}, {"typ": "Bearer", "azp": "c"}, "+a+"),
    "an access token of Keycloak 23, with a nonce": ({}, {"typ": "Bearer", "nonce": "n", "scope": "openid"}, "+a+"),
    "an access token of RFC 9068 with a nonce": ({"typ": "at+jwt"}, {"nonce": "n"}, "+a+"),
    "an ID token of Keycloak": ({}, {"typ": "ID", "nonce": "n", "at_hash": "h"}, "i++"),
    "an ID token that says at+jwt": ({"typ": "at+jwt"}, {"typ": "ID"}, "i++"),
    "an ID token with a nonce": ({}, {"nonce": "n"}, "i++"),
    "an ID token with a nonce and a scope": ({}, {"nonce": "n", "scope": "openid"}, "i++"),
    "an ID token with at_hash": ({"typ": ...}, {"at_hash": "h"}, "i++"),
    "Google's identity token": ({}, GOOGLE, "+++"),
    "Google's identity token of a login": ({}, {**GOOGLE, "at_hash": "h"}, "i++"),
    "a token of a Kubernetes service account": (
        {"typ": ...},
        {"kubernetes.io": {"namespace": "n"}, "aud": ["api://gatepass"]},
        "+a+",
    ),
    "a token of an application of Entra, v2": ({}, {"azp": "c", "azpacr": "1", "oid": "o", "ver": "2.0"}, "+a+"),
    "the same, v1": ({}, {"appid": "c", "oid": "o", "ver": "1.0"}, "+a+"),
    "the same without its name": ({}, {"appidacr": "1", "oid": "o", "ver": "1.0"}, "+a+"),
    "an ID token of Entra without a nonce": ({}, {"oid": "o", "rh": "r", "tid": "t", "uti": "u", "ver": "2.0"}, "+++"),
    "typ of another type": ({}, {"typ": ["ID"]}, "+++"),
    "typ with a blank": ({}, {"typ": "ID "}, "i++"),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_kinds_of_tokens_are_told_apart(kind):
    header, changed, expected = KINDS[kind]
    text, found = with_header(header, **changed), ""
    for entry in (ENTRY, ID, BOTH):
        try:
            assert (await caller(text, entry)).name == "people"
            found += "+"
        except InvalidToken as error:
            found += {"jwt_id": "i", "jwt_access": "a"}[error.case]
    assert found == expected


TABLE: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    # the row, the claims, whether they meet
    "an element of a list": ({"claim": "r", "contains": "a"}, {"r": ["b", "a"]}, True),
    "a word of a text": ({"claim": "scope", "contains": "llm"}, {"scope": "openid llm x"}, True),
    "a part of a word": ({"claim": "scope", "contains": "llm"}, {"scope": "openid llm-admin"}, False),
    "a word between tabs": ({"claim": "scope", "contains": "llm"}, {"scope": "openid\tllm"}, False),
    "a word of scp, inside an object": ({"claim": "a.scp", "contains": "llm"}, {"a": {"scp": "x llm"}}, True),
    "a word of Auth0's scope": (
        {"claim": r"https://x\.example/scope", "contains": "a"},
        {"https://x.example/scope": "a b"},
        False,
    ),
    "a word of a text of roles": ({"claim": "roles", "contains": "llm-admin"}, {"roles": "Project llm-admin"}, False),
    "a word of a name": ({"claim": "groups", "contains": "b"}, {"groups": "a b c"}, False),
    "a word of a text below scope": ({"claim": "scope.x", "contains": "a"}, {"scope": {"x": "a b"}}, False),
    "a word of an element of scope": ({"claim": "scope", "contains": "a"}, {"scope": ["a b"]}, False),
    "a whole text": ({"claim": "roles", "contains": "Project llm-admin"}, {"roles": "Project llm-admin"}, True),
    "a text of one word": ({"claim": "roles", "contains": "llm-user"}, {"roles": "llm-user"}, True),
    "an empty word of scope": ({"claim": "scope", "contains": "a"}, {"scope": "  a"}, True),
    "contains, empty list": ({"claim": "r", "contains": "a"}, {"r": []}, False),
    "contains, null": ({"claim": "r", "contains": "a"}, {"r": None}, False),
    "contains, absent": ({"claim": "r", "contains": "a"}, {}, False),
    "contains, an object with this name": ({"claim": "r", "contains": "a"}, {"r": {"a": 1}}, False),
    "contains, a list in a list": ({"claim": "r", "contains": "a"}, {"r": [["a"]]}, False),
    "contains, a number": ({"claim": "r", "contains": "1"}, {"r": 1}, False),
    "contains, a list of numbers": ({"claim": "r", "contains": "1"}, {"r": [1, True]}, False),
    "contains, another case": ({"claim": "r", "contains": "a"}, {"r": ["A"]}, False),
    "equals": ({"claim": "r", "equals": "a"}, {"r": "a"}, True),
    "equals, one of several": ({"claim": "r", "equals": ["b", "a"]}, {"r": "a"}, True),
    "equals, a list": ({"claim": "r", "equals": "a"}, {"r": ["a"]}, False),
    "equals, true": ({"claim": "r", "equals": "true"}, {"r": True}, False),
    "equals, words": ({"claim": "r", "equals": "a"}, {"r": "a b"}, False),
    "a path": ({"claim": "realm_access.roles", "contains": "a"}, {"realm_access": {"roles": ["a"]}}, True),
    "a path through a list": ({"claim": "x.roles", "contains": "a"}, {"x": [{"roles": ["a"]}]}, False),
    "a path through a text": ({"claim": "x.roles", "contains": "a"}, {"x": "roles"}, False),
    "a name with dots is no path": ({"claim": "x.roles", "contains": "a"}, {"x.roles": ["a"]}, False),
    "dots in a name": (
        {"claim": r"kubernetes\.io.namespace", "equals": "n"},
        {"kubernetes.io": {"namespace": "n"}},
        True,
    ),
    "a path is no name with dots": (
        {"claim": r"kubernetes\.io.namespace", "equals": "n"},
        {"kubernetes": {"io": {"namespace": "n"}}},
        False,
    ),
    "a name of Auth0": (
        {"claim": r"https://corp\.example/roles", "contains": "a"},
        {"https://corp.example/roles": ["a"]},
        True,
    ),
}


@pytest.mark.attack("a caller's token with claims of odd types")
@pytest.mark.parametrize("row", TABLE)
async def test_a_row_is_met_by_its_claim_alone(row):
    settings, changed, is_met = TABLE[row]
    entry = {**ENTRY, "callers": [{**settings, "name": "met"}]}
    text = RSA.sign(claims(**changed))
    if is_met:
        assert (await caller(text, entry)).name == "met"
        return
    error = await refusal(text, entry)
    is_told = isinstance(settings.get("contains"), str) and row.startswith(
        ("a word of a text", "a word of a name", "a word of Auth0")
    )
    assert (error.status, error.code, error.case) == (403, "no_caller_row", "one_text" if is_told else "")
    assert settings["claim"] in error.cause
    told = f"The claim `{settings['claim']}` is one text; only `scope` and `scp` are read as words."
    assert (told in error.message) == is_told


def test_the_path_of_a_claim_is_split_once():
    [row] = JwtIssuer.model_validate({**ENTRY, "callers": [{**ROW, "claim": r"a\.b.c"}]}).callers
    assert row.path == ("a.b", "c")
    assert row.path is row.path


async def test_the_first_row_that_fits_applies():
    rows = [{"claim": "roles", "contains": one, "name": f"row-{one}"} for one in ("none", "b", "a")]
    assert (await caller(RSA.sign(claims(roles=["a", "b"])), {**ENTRY, "callers": rows})).name == "row-b"


@pytest.mark.parametrize("overage", [{"hasgroups": True}, {"_claim_names": {"groups": "src1"}}], ids=str)
async def test_groups_that_entra_left_out_are_named(overage):
    by_groups = {**ENTRY, "callers": [{"claim": "groups", "contains": "g", "name": "n"}]}
    error = await refusal(RSA.sign(claims(**overage)), by_groups)
    assert (error.status, error.code, error.case) == (403, "no_caller_row", "entra_groups")
    assert "Entra left out the groups, because the person is in more than 200. Use app roles" in error.message
    assert (await refusal(RSA.sign(claims(roles=[], **overage)))).case == ""  # its rows look at no groups


async def test_an_expired_token_without_a_row_is_expired():
    # agents sign in again after a 401 alone
    assert (await refusal(RSA.sign(claims(exp=NOW_S - 60, roles=[])))).status == 401


async def test_identity_is_issuer_and_subject_alone():
    first = await caller(GOOD)
    other = RSA.sign(
        claims(iat=int(NOW_S) - 9, jti="2", preferred_username="root", email="x@y", roles=["llm-user", "z"])
    )
    second = await caller(other)
    assert (first.identity, first.name, first.user) == (second.identity, "people", "alice")
    assert second.user == "root"
    assert first.identity not in {
        (await caller(RSA.sign(claims(sub=sub)))).identity for sub in ("u2", "U1", " u1", "u1\x00")
    }


@pytest.mark.parametrize("named", [["alice"], {"a": 1}, 5, None, ...])
async def test_a_label_that_is_no_text_is_empty(named):
    assert (await caller(RSA.sign(claims(preferred_username=named)))).user == ""


async def test_a_label_is_short_and_printable():
    assert (await caller(RSA.sign(claims(preferred_username="a\n" + "b" * 500)))).user == "a?" + "b" * 98
