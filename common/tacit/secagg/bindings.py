"""What messages, keys and signatures are bound to; both sides compute the same."""

from __future__ import annotations

from collections.abc import Collection

from tacit.secagg.keys import Digest, PublicKey, Secret, derive, digest
from tacit.secagg.labels import label
from tacit.secagg.round import Round

__all__ = [
    "advert_text",
    "agreement_text",
    "block_text",
    "commitment",
    "pair_key",
    "presence_text",
    "seed_key",
    "session_of",
    "share_address",
    "step_of",
]


def advert_text(new: Round, *, sender: int, share_key: PublicKey, mask_key: PublicKey) -> bytes:
    """What a partner signs in stage 0."""
    return label("advert", new.context, sender, share_key, mask_key)


def block_text(new: Round, *, sender: int, share_key: PublicKey, mask_keys: tuple[PublicKey, ...]) -> bytes:
    """What a partner signs in stage 0 of a block: a mask key for each step."""
    return label("block", new.context, sender, share_key, *mask_keys)


def session_of(new: Round, roster: bytes) -> Digest:
    """Hash of the round and of the keys of everyone in it, which all that follows stage 0 is bound to."""
    return digest(label("session", new.context, roster))


def step_of(session: Digest, *, number: int) -> Digest:
    """What a step of a block has for its `session`: commitments, masks and signatures of one step are of no other."""
    return digest(label("step", session, number))


def share_address(session: Digest, *, sender: int, receiver: int) -> bytes:
    """From whom to whom a share is sealed: info of the key and associated data of the seal."""
    return label("share", session, sender, receiver)


def commitment(seed: Secret, *, session: Digest, owner: int) -> Digest:
    """What stage 1 publishes of `b`: a hash, which hides it because it is 32 random bytes."""
    return digest(label("commit", session, owner, bytes(seed)))


def seed_key(seed: Secret, *, session: Digest, owner: int, channel: str) -> Secret:
    """The key of a partner's mask of its own in one channel."""
    return derive(seed, label("self", session, owner, channel))


def pair_key(secret: Secret, *, session: Digest, request: Digest, pair: tuple[int, int], channel: str) -> Secret:
    """The key of the mask that two partners share in one channel, the same for both.

    Guarantee: partners that were asked different things in stage 2 get masks that do not cancel.
    """
    return derive(secret, label("pair", session, request, min(pair), max(pair), channel))


def presence_text(new: Round, *, session: Digest, request: Digest, present: Collection[int]) -> bytes:
    """What a partner signs in stage 2: with whom it masked, U2 as it was shown."""
    return label("present", new.context, session, request, *sorted(present))


def agreement_text(new: Round, *, session: Digest, request: Digest, survivors: tuple[int, ...]) -> bytes:
    """What survivors sign in stage 3."""
    return label("agree", new.context, session, request, *survivors)
