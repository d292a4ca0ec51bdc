"""The messages that open a block: those of stages 0 and 1, with something for every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from tacit.codec import Reader, Writer
from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.constants import DIGEST, KEY, SHARE, SIGNATURE, TAG
from tacit.secagg.keys import Digest, PublicKey, Signature
from tacit.secagg.lists import (
    read_key,
    read_list,
    read_pairs,
    read_positions,
    write_list,
    write_pairs,
    write_positions,
)

__all__ = ["BlockAdvert", "BlockEnvelopes", "BlockInbox", "BlockRoster", "check_steps"]


@dataclass(frozen=True)
class BlockAdvert:
    """Stage 0, partner: fresh keys, a mask key for each step, signed with the identity key.

    Attributes:
        sender: position.
        share_key: X25519, `c_pk`; seals the shares of all steps.
        mask_keys: X25519, `s_pk` of step 1, 2 and so on.
        signature: Ed25519 over `label("block", ctx, sender, share_key, mask_keys...)`.
    """

    KIND: ClassVar[int] = 10
    STAGE: ClassVar[Stage] = Stage.ADVERTISE
    sender: int
    share_key: PublicKey
    mask_keys: tuple[PublicKey, ...]
    signature: Signature

    @property
    def keys(self) -> tuple[PublicKey, ...]:
        """All that it shows."""
        return self.share_key, *self.mask_keys

    def write(self, writer: Writer) -> None:
        writer.number(self.sender, size=4).fixed(self.share_key, size=KEY)
        write_list(writer, self.mask_keys, lambda key: writer.fixed(key, size=KEY))
        writer.fixed(self.signature, size=SIGNATURE)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        sender, share_key = reader.number(size=4), read_key(reader)
        mask_keys = tuple(read_key(reader) for _ in range(reader.number(size=4)))
        return cls(sender, share_key, mask_keys, Signature(reader.fixed(size=SIGNATURE)))


@dataclass(frozen=True)
class BlockRoster:
    """Stage 1, server: the adverts of U1."""

    KIND: ClassVar[int] = 11
    STAGE: ClassVar[Stage] = Stage.SHARE
    adverts: tuple[BlockAdvert, ...]

    def write(self, writer: Writer) -> None:
        write_list(writer, self.adverts, lambda advert: advert.write(writer))

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(read_list(reader, lambda: BlockAdvert.read(reader), lambda advert: advert.sender))


@dataclass(frozen=True)
class BlockEnvelopes:
    """Stage 1, partner: a commitment to `b` of each step, and for each neighbour the shares of all steps, sealed."""

    KIND: ClassVar[int] = 12
    STAGE: ClassVar[Stage] = Stage.SHARE
    sender: int
    commitments: tuple[Digest, ...]
    sealed: tuple[tuple[int, bytes], ...]

    def write(self, writer: Writer) -> None:
        writer.number(self.sender, size=4)
        write_list(writer, self.commitments, lambda commitment: writer.fixed(commitment, size=DIGEST))
        write_pairs(writer, self.sealed, size=_sealed(len(self.commitments)))

    @classmethod
    def read(cls, reader: Reader) -> Self:
        sender = reader.number(size=4)
        commitments = tuple(Digest(reader.fixed(size=DIGEST)) for _ in range(reader.number(size=4)))
        return cls(sender, commitments, read_pairs(reader, size=_sealed(len(commitments))))


@dataclass(frozen=True)
class BlockInbox:
    """Stage 2, server, once a block: U2, and what its members sealed for this partner."""

    KIND: ClassVar[int] = 13
    STAGE: ClassVar[Stage] = Stage.MASK
    steps: int
    present: tuple[int, ...]
    sealed: tuple[tuple[int, bytes], ...]

    def write(self, writer: Writer) -> None:
        writer.number(self.steps, size=4)
        write_positions(writer, self.present)
        write_pairs(writer, self.sealed, size=_sealed(self.steps))

    @classmethod
    def read(cls, reader: Reader) -> Self:
        steps = reader.number(size=4)
        return cls(steps, read_positions(reader), read_pairs(reader, size=_sealed(steps)))


def check_steps(found: int, steps: int, *, stage: Stage) -> None:
    """A message has something for every step of the block, and for no more. Raises Abort."""
    if found != steps:
        raise Abort(stage, Reason.MALFORMED, f"expected a message for {steps} steps, found one for {found}")


def _sealed(steps: int) -> int:
    """Bytes of an envelope: a share of `b` and one of `s_sk` for each step, and the tag."""
    return 2 * SHARE * steps + TAG
