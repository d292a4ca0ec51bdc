"""How a statement is signed: its canonical bytes, and an Ed25519 signature over their hash.

Byte by byte in `tacit/spec/statement.md`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from tacit.check import parse
from tacit.codec import Writer
from tacit.errors import BadInput
from tacit.secagg.constants import SIGNATURE
from tacit.secagg.keys import PublicKey, Secret, Signature, verifies
from tacit.secagg.keys import sign as sign_with
from tacit.statement import PartnerStatement, ServerStatement, Statement

__all__ = ["LONGEST", "canonical", "check_signature", "load", "pretty", "read", "sign"]

LONGEST = 32 << 20
"""Bytes of a partner's statement; a thousand rounds take a quarter of a million."""

_DOMAIN = b"tacit-statement"  # nothing else that partners or servers sign begins so
_VERSION = 1
_SIGNATURE = "signature"


def canonical(value: Mapping[str, Any]) -> bytes:
    """JSON of `value`: keys sorted, no blanks, ASCII with \\u escapes, numbers as Python's `repr` writes them."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def pretty(value: Mapping[str, Any]) -> bytes:
    """JSON of `value` for people to read; `canonical` bytes of what is read from it are the same."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode()


def sign(statement: Statement, *, key: Secret) -> bytes:
    """`statement` with its signature, as canonical bytes.

    Guarantee: the signature is over everything in it, and over a domain that no other signature of these keys has.
    """
    value = statement.model_dump(mode="json", by_alias=True)
    return canonical({**value, _SIGNATURE: sign_with(key, _message(value)).hex()})


def load(data: bytes, *, where: str) -> dict[str, Any]:
    """The JSON object in `data`, strictly.

    Args:
        data: of a statement, with any blanks between its parts.
        where: what an error calls it.

    Raises:
        BadInput: no JSON object, a key that stands twice, or a number that JSON has not.
    """
    try:
        found = json.loads(data, object_pairs_hook=_object, parse_constant=_number, parse_float=_number)
    except (ValueError, RecursionError) as error:
        raise _none(where, str(error)) from None
    if not isinstance(found, dict):
        raise _none(where, "another value")
    return found


def read(value: Mapping[str, Any], *, where: str) -> Statement:
    """`value` as a statement, whose signature is another question. Raises BadInput."""
    body = _body(value)
    match body.get("kind"):
        case "partner":
            return parse(PartnerStatement, body, where=where)
        case "server":
            return parse(ServerStatement, body, where=where)
        case other:
            raise _none(where, f"kind {str(other)[:20]!r}")


def check_signature(value: Mapping[str, Any], *, identity: PublicKey) -> None:
    """`identity` signed everything that stands in `value`.

    Guarantee: a statement that differs in anything from what was signed is refused, and so is a signature that the
    same key made for any other purpose.

    Raises:
        BadInput: it did not.
    """
    text = value.get(_SIGNATURE)
    found = bytes.fromhex(text) if isinstance(text, str) and re.fullmatch(f"[0-9a-f]{{{2 * SIGNATURE}}}", text) else b""
    if not found or not verifies(Signature(found), identity=identity, message=_message(_body(value))):
        raise BadInput(
            "expected the signature of the one who states, found that the statement was changed or another signed",
            hint="ask that party for its own copy",
        )


def _body(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: each for key, each in value.items() if key != _SIGNATURE}


def _message(body: Mapping[str, Any]) -> bytes:
    writer = Writer().fixed(_DOMAIN, size=len(_DOMAIN)).number(_VERSION, size=1)
    return writer.fixed(hashlib.sha256(canonical(body)).digest(), size=32).done()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key that stands twice in one object")
    return found


def _number(text: str) -> float:
    """Python reads numbers that are not finite, and writes none."""
    if not math.isfinite(found := float(text)):
        raise ValueError(f"{text[:20]}, which is no finite number")
    return found


def _none(where: str, found: str) -> BadInput:
    return BadInput(f"expected a statement in {where}, found {found}", hint="name a file statement.json or RUN.json")
