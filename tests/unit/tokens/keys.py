"""Real keys and their certificates, made once."""

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID


@cache
def key(kind: str) -> Any:
    """`rsa`, `other-rsa`, `short-rsa`, `p256`, `p384`, `ed25519`."""
    match kind:
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case _:
            return rsa.generate_private_key(65537, 1024 if kind == "short-rsa" else 2048)


def broken_pem() -> str:
    """An RSA key whose signatures are invalid."""
    good = key("rsa").private_numbers()
    numbers = rsa.RSAPrivateNumbers(
        good.p, good.q, good.d + 2, good.dmp1 + 2, good.dmq1, good.iqmp, good.public_numbers
    )
    broken = numbers.private_key(unsafe_skip_rsa_key_validation=True)
    return broken.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def private_pem(kind: str, phrase: bytes | None = None) -> str:
    locked = NoEncryption() if phrase is None else BestAvailableEncryption(phrase)
    pem: bytes = key(kind).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)
    return pem.decode()


def public_pem(kind: str) -> str:
    pem: bytes = key(kind).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


@cache
def certificate(kind: str) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "me")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key(kind).public_key(), x509.random_serial_number())
    return made.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key(kind), hashes.SHA256())


def certificate_pem(kind: str) -> str:
    return certificate(kind).public_bytes(Encoding.PEM).decode()
