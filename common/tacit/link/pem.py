"""Keys, certificates and requests out of PEM: ours, or BadInput."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tacit.errors import BadInput

__all__ = ["BROKEN", "certificate", "private_key", "requested_key"]

BROKEN = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises on bytes that are no certificate, or one in a form that we never write."""

_LONGEST = 8192  # bytes of a request; ours have 400, and whoever sends more wants something else


def certificate(text: bytes) -> x509.Certificate:
    """The one certificate in `text`. Raises BadInput where there is none or several."""
    try:
        (found,) = x509.load_pem_x509_certificates(text)
    except BROKEN:
        raise BadInput("expected one certificate in PEM, found none or several", hint="restore the file") from None
    return found


def private_key(text: bytes) -> EllipticCurvePrivateKey:
    """The P-256 key in `text`. Raises BadInput where there is none, or one with a password."""
    try:
        key = load_pem_private_key(text, password=None)
    except (*BROKEN, TypeError):  # the latter for a key with a password
        key = None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise BadInput("expected a private P-256 key in PEM, found none", hint="restore the file")
    return key


def requested_key(request: bytes) -> EllipticCurvePublicKey:
    """The P-256 key in a certificate request, whose holder has signed it.

    Raises:
        BadInput: anything else, however long.
    """
    if len(request) > _LONGEST:
        raise _unfit(f"{len(request)} bytes")
    try:
        found = x509.load_pem_x509_csr(request)
        key, signed = found.public_key(), found.is_signature_valid
    except (*BROKEN, InvalidSignature):
        raise _unfit("none") from None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise _unfit("another kind of key")
    if not signed:
        raise _unfit("a wrong signature")
    return key


def _unfit(found: str) -> BadInput:
    return BadInput(
        f"expected a certificate request over a P-256 key, signed with it, found {found}",
        hint="install the same version of tacit on both sides",
    )
