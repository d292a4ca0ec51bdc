"""What goes over the wire, byte by byte: one frozen record a message, strict both ways.

Every message begins with the protocol's version, its kind and the 32 bytes of `ctx`, so that none is ever read as
another kind or in another round. Positions are those of the cohort and come in strictly rising order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from tacit.codec import Malformed, Reader, Writer
from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.constants import DIGEST, KEY, SEALED, SHARE, SIGNATURE, VERSION
from tacit.secagg.keys import Digest, PublicKey, Secret, Signature
from tacit.secagg.lists import (
    OutOfOrder,
    read_key,
    read_list,
    read_pairs,
    read_positions,
    write_list,
    write_pairs,
    write_positions,
)

__all__ = [
    "Advert",
    "Agreement",
    "Complete",
    "Envelopes",
    "Inbox",
    "MaskedVector",
    "Presence",
    "Quorum",
    "Reveal",
    "Roster",
    "Survivors",
    "decode",
    "encode",
]


class _Body(Protocol):
    KIND: ClassVar[int]
    STAGE: ClassVar[Stage]

    def write(self, writer: Writer) -> None: ...

    @classmethod
    def read(cls, reader: Reader) -> Self: ...


B = TypeVar("B", bound=_Body)


@dataclass(frozen=True)
class Advert:
    """Stage 0, partner: fresh keys, signed with the identity key.

    Attributes:
        sender: position.
        share_key: X25519, `c_pk`; seals shares.
        mask_key: X25519, `s_pk`; makes masks.
        signature: Ed25519 over `label("advert", ctx, sender, share_key, mask_key)`.
    """

    KIND: ClassVar[int] = 1
    STAGE: ClassVar[Stage] = Stage.ADVERTISE
    sender: int
    share_key: PublicKey
    mask_key: PublicKey
    signature: Signature

    @property
    def keys(self) -> tuple[PublicKey, ...]:
        """All that it shows."""
        return self.share_key, self.mask_key

    def write(self, writer: Writer) -> None:
        writer.number(self.sender, size=4).fixed(self.share_key, size=KEY).fixed(self.mask_key, size=KEY)
        writer.fixed(self.signature, size=SIGNATURE)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        sender, keys = reader.number(size=4), (read_key(reader), read_key(reader))
        return cls(sender, *keys, Signature(reader.fixed(size=SIGNATURE)))


@dataclass(frozen=True)
class Roster:
    """Stage 1, server: the adverts of U1."""

    KIND: ClassVar[int] = 2
    STAGE: ClassVar[Stage] = Stage.SHARE
    adverts: tuple[Advert, ...]

    def write(self, writer: Writer) -> None:
        write_list(writer, self.adverts, lambda advert: advert.write(writer))

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(read_list(reader, lambda: Advert.read(reader), lambda advert: advert.sender))


@dataclass(frozen=True)
class Envelopes:
    """Stage 1, partner: a commitment to its seed `b`, and for each neighbour a sealed share of `b` and of `s_sk`."""

    KIND: ClassVar[int] = 3
    STAGE: ClassVar[Stage] = Stage.SHARE
    sender: int
    commitment: Digest
    sealed: tuple[tuple[int, bytes], ...]

    def write(self, writer: Writer) -> None:
        writer.number(self.sender, size=4).fixed(self.commitment, size=DIGEST)
        write_pairs(writer, self.sealed, size=SEALED)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        sender, commitment = reader.number(size=4), Digest(reader.fixed(size=DIGEST))
        return cls(sender, commitment, read_pairs(reader, size=SEALED))


@dataclass(frozen=True)
class Inbox:
    """Stage 2, server: U2, and what its members sealed for this partner."""

    KIND: ClassVar[int] = 4
    STAGE: ClassVar[Stage] = Stage.MASK
    present: tuple[int, ...]
    sealed: tuple[tuple[int, bytes], ...]

    def write(self, writer: Writer) -> None:
        write_positions(writer, self.present)
        write_pairs(writer, self.sealed, size=SEALED)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(read_positions(reader), read_pairs(reader, size=SEALED))


@dataclass(frozen=True, repr=False)
class MaskedVector:
    """Stage 2, partner: uint32 `[d]` and uint64 `[m]`, masked. They travel as arrays of the message around it."""

    update: NDArray[np.uint32]
    counters: NDArray[np.uint64]

    def channels(self) -> tuple[tuple[str, NDArray[Any]], ...]:
        """The channels by name."""
        return (("update", self.update), ("counters", self.counters))

    def check(self, *, update: int, counters: int, stage: Stage) -> None:
        """Raises Abort where the lengths or kinds are others."""
        for found, dtype, length in ((self.update, np.uint32, update), (self.counters, np.uint64, counters)):
            if found.dtype != dtype or found.shape != (length,):
                expected = f"expected a vector of {length} {np.dtype(dtype)}"
                raise Abort(stage, Reason.VECTOR, f"{expected}, found {list(found.shape)} {found.dtype}")


@dataclass(frozen=True)
class _Signed:
    sender: int
    signature: Signature

    def write(self, writer: Writer) -> None:
        writer.number(self.sender, size=4).fixed(self.signature, size=SIGNATURE)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(reader.number(size=4), Signature(reader.fixed(size=SIGNATURE)))


@dataclass(frozen=True)
class Presence(_Signed):
    """Stage 2, partner, beside the masked vector: Ed25519 over `label("present", ctx, session, request, U2)`."""

    KIND: ClassVar[int] = 9
    STAGE: ClassVar[Stage] = Stage.MASK


@dataclass(frozen=True)
class Survivors:
    """Stage 3, server: U3, whose masked vectors came, by their signatures over U2."""

    KIND: ClassVar[int] = 5
    STAGE: ClassVar[Stage] = Stage.AGREE
    presences: tuple[Presence, ...]

    @property
    def positions(self) -> tuple[int, ...]:
        """U3."""
        return tuple(presence.sender for presence in self.presences)

    def write(self, writer: Writer) -> None:
        write_list(writer, self.presences, lambda presence: presence.write(writer))

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(read_list(reader, lambda: Presence.read(reader), lambda presence: presence.sender))


@dataclass(frozen=True)
class Agreement(_Signed):
    """Stage 3, partner: Ed25519 over `label("agree", ctx, session, request, U3)`."""

    KIND: ClassVar[int] = 6
    STAGE: ClassVar[Stage] = Stage.AGREE


@dataclass(frozen=True)
class Quorum:
    """Stage 4, server: signatures of U4 over the same U3."""

    KIND: ClassVar[int] = 7
    STAGE: ClassVar[Stage] = Stage.UNMASK
    agreements: tuple[Agreement, ...]

    def write(self, writer: Writer) -> None:
        write_list(writer, self.agreements, lambda agreement: agreement.write(writer))

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(read_list(reader, lambda: Agreement.read(reader), lambda agreement: agreement.sender))


@dataclass(frozen=True)
class Complete:
    """Stage 4 of one step of a block, server: every partner of U2 answered, and no list need be agreed on."""

    KIND: ClassVar[int] = 14
    STAGE: ClassVar[Stage] = Stage.UNMASK
    session: Digest

    def write(self, writer: Writer) -> None:
        writer.fixed(self.session, size=DIGEST)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(Digest(reader.fixed(size=DIGEST)))


@dataclass(frozen=True, repr=False)
class Reveal:
    """Stage 4, partner: for each owner in U2 whose shares it holds, one: of `b` if in U3, of `s_sk` if not."""

    KIND: ClassVar[int] = 8
    STAGE: ClassVar[Stage] = Stage.UNMASK
    sender: int
    shares: tuple[tuple[int, Secret], ...]

    def write(self, writer: Writer) -> None:
        writer.number(self.sender, size=4)
        write_pairs(writer, self.shares, size=SHARE)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        sender = reader.number(size=4)
        return cls(sender, tuple((owner, Secret(share)) for owner, share in read_pairs(reader, size=SHARE)))


def encode(message: _Body, *, context: Digest) -> bytes:
    """`message` with its header."""
    writer = Writer().number(VERSION, size=1).number(message.KIND, size=1).fixed(context, size=DIGEST)
    message.write(writer)
    return writer.done()


def decode(kind: type[B], data: bytes, *, context: Digest) -> B:
    """The message of `kind` in `data`.

    Raises:
        Abort: another version, kind or round; positions twice or out of order; bytes missing or left over.
    """
    reader = Reader(data)
    try:
        _read_head(reader, kind, context)
        found = kind.read(reader)
        reader.done()
    except OutOfOrder:
        raise Abort(
            kind.STAGE, Reason.DUPLICATE, "expected every party once and in order, found one twice or misplaced"
        ) from None
    except Malformed as error:
        raise Abort(kind.STAGE, Reason.MALFORMED, str(error)) from None
    return found


def _read_head(reader: Reader, kind: type[_Body], context: Digest) -> None:
    head = reader.number(size=1), reader.number(size=1)
    if head != (VERSION, kind.KIND):
        raise Malformed(f"expected version {VERSION} and kind {kind.KIND}, found {head[0]} and {head[1]}")
    if reader.fixed(size=DIGEST) != context:
        raise Abort(kind.STAGE, Reason.OTHER_ROUND, "expected a message of this round, found one of another")
