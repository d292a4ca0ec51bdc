"""The primitives, one screen each, all from `cryptography`."""

from __future__ import annotations

import hashlib
from typing import NewType

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tacit.secagg.constants import KEY

__all__ = [
    "Digest",
    "Exchange",
    "PublicKey",
    "Secret",
    "Signature",
    "agree",
    "derive",
    "digest",
    "identity_of",
    "is_usable",
    "open_sealed",
    "public_of",
    "seal",
    "sign",
    "verifies",
]

PublicKey = NewType("PublicKey", bytes)
Signature = NewType("Signature", bytes)
Digest = NewType("Digest", bytes)

_NO_NONCE = bytes(12)


class Secret(bytes):
    """Bytes that show nothing of themselves when printed, formatted or logged."""

    def __repr__(self) -> str:
        return "<secret>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "<secret>"


_ANY_KEY = Secret(bytes(KEY))  # X25519 sets the bits that make any 32 bytes a key


def digest(data: bytes) -> Digest:
    """SHA-256."""
    return Digest(hashlib.sha256(data).digest())


def identity_of(key: Secret) -> PublicKey:
    """The public half of an Ed25519 key."""
    return PublicKey(Ed25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw())


def sign(key: Secret, message: bytes) -> Signature:
    """An Ed25519 signature (RFC 8032)."""
    return Signature(Ed25519PrivateKey.from_private_bytes(key).sign(message))


def verifies(signature: Signature, *, identity: PublicKey, message: bytes) -> bool:
    """Whether `signature` is `identity`'s over `message`. Every caller raises on False."""
    try:
        Ed25519PublicKey.from_public_bytes(identity).verify(signature, message)
    except (InvalidSignature, ValueError):  # the latter for bytes that are no point
        return False
    return True


def public_of(key: Secret) -> PublicKey:
    """The public half of an X25519 key."""
    return PublicKey(X25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw())


class Exchange:
    """An X25519 key made ready to agree with many peers, which costs as much as agreeing with one."""

    def __init__(self, key: Secret) -> None:
        self._key = X25519PrivateKey.from_private_bytes(key)

    def agree(self, peer: PublicKey) -> Secret:
        """The secret with `peer` (RFC 7748). Raises ValueError where it would be all zero, whoever else knew it."""
        return Secret(self._key.exchange(X25519PublicKey.from_public_bytes(peer)))


def agree(key: Secret, peer: PublicKey) -> Secret:
    """The X25519 secret of one pair. Raises ValueError as `Exchange.agree`."""
    return Exchange(key).agree(peer)


def is_usable(peer: PublicKey) -> bool:
    """Whether agreeing with `peer` gives a secret: false for the points of small order (RFC 7748, section 6.1)."""
    try:
        agree(_ANY_KEY, peer)
    except ValueError:
        return False
    return True


def derive(secret: Secret, info: bytes) -> Secret:
    """A 32-byte key for the one use that `info`, a label, names: HKDF-SHA256 (RFC 5869).

    No salt: the input is an X25519 secret or 32 random bytes, made for this round alone (RFC 5869, section 3.1).
    """
    return Secret(HKDF(algorithm=SHA256(), length=KEY, salt=None, info=info).derive(secret))


def seal(key: Secret, plain: bytes, *, bound: bytes) -> bytes:
    """AES-256-GCM. The nonce is zero because a key seals one envelope only: one sender, receiver and session."""
    return AESGCM(key).encrypt(_NO_NONCE, plain, bound)


def open_sealed(key: Secret, sealed: bytes, *, bound: bytes) -> Secret | None:
    """What `seal` sealed with the same key and `bound`, or None. Every caller raises on None."""
    try:
        return Secret(AESGCM(key).decrypt(_NO_NONCE, sealed, bound))
    except InvalidTag:
        return None
