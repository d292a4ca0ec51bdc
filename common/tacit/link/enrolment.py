"""The proof by which a partner joins: it holds the identity key that it names, now, for this invitation and request.

Without it a partner could enrol under somebody else's identity key, which it need not hold to know.
"""

from __future__ import annotations

import re

from tacit.codec import Writer
from tacit.errors import BadInput
from tacit.link.identity import check_identity
from tacit.link.names import check_name
from tacit.secagg.constants import SIGNATURE
from tacit.secagg.keys import PublicKey, Secret, Signature, digest, verifies
from tacit.secagg.keys import sign as sign_with

__all__ = ["check", "fingerprint", "sign"]

_DOMAIN = b"tacit-enrolment"  # no label of secure aggregation begins so: the identity key signs for both
_VERSION = 1
_FINGERPRINT = re.compile("[0-9a-f]{64}")


def sign(identity: Secret, *, name: str, request: bytes, invitation: str) -> bytes:
    """The proof for `check`: 64 bytes, Ed25519 (RFC 8032).

    Args:
        identity: the Ed25519 key, 32 bytes.
        name: of the partner.
        request: the certificate request that goes with the proof.
        invitation: fingerprint of the invitation's certificate, 64 hexadecimal digits.

    Raises:
        BadInput: a name or a fingerprint that is none.
    """
    return sign_with(identity, _message(name=name, request=request, invitation=invitation))


def check(public: PublicKey, proof: bytes, *, name: str, request: bytes, invitation: str) -> None:
    """Whether `proof` was made with the private half of `public`, over the same name, request and invitation.

    Guarantee: a proof for another name, request, invitation, identity or purpose is refused, and so is a key under
    which a proof that nobody made would hold (`tacit.link.identity`).

    Raises:
        BadInput: it was not, or any part is malformed.
    """
    message = _message(name=name, request=request, invitation=invitation)
    check_identity(public, whose=name)
    fits = len(proof) == SIGNATURE
    if not fits or not verifies(Signature(proof), identity=public, message=message):
        raise BadInput(
            f"expected a proof that {name} holds the identity key it names, found a wrong one",
            hint="join with the keys that tacit-client made in the partner's folder",
        )


def fingerprint(identity: PublicKey) -> str:
    """What two people compare: the first 128 bits of the key's SHA-256, in eight groups of four hexadecimal digits.

    To be taken for somebody else's, a key must hit one value: 2^128 attempts.
    """
    text = digest(identity).hex()[:32]
    return " ".join(text[i : i + 4] for i in range(0, len(text), 4))


def _message(*, name: str, request: bytes, invitation: str) -> bytes:
    if not _FINGERPRINT.fullmatch(invitation):
        raise BadInput("expected a fingerprint of 64 hexadecimal digits, found another text", hint="join again")
    writer = Writer().fixed(_DOMAIN, size=len(_DOMAIN)).number(_VERSION, size=1).text(check_name(name))
    return writer.fixed(digest(request), size=32).fixed(bytes.fromhex(invitation), size=32).done()
