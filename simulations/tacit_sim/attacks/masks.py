"""Attacks on the masks themselves: their keys, their range, what is known of what they hide, and why they cancel."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from tacit.secagg.bindings import pair_key
from tacit.secagg.constants import KEY
from tacit.secagg.keys import Digest, Secret, agree, digest, public_of
from tacit.secagg.prg import add_mask, keystream
from tacit_sim.attacks.cohort import SEVEN, VICTIM, gather_cohort
from tacit_sim.attacks.outcome import Outcome
from tacit_sim.attacks.partners import dead_model, live_model
from tacit_sim.attacks.play import Play, open_round

__all__ = ["known_plaintext", "mask_seed", "model_inconsistency"]

_SIGMAS = 5.0
_TRIED = 1 << 14
_WEIGHT, _CLIPPED = 1, 0  # of every partner of the attacked job, and known to everybody


def mask_seed() -> Outcome:
    """Signs of updates are read off masked vectors; keys are looked at for bits that never change, masks for values
    that never come, and seeds that fold to the same 32 bits for the same mask.

    Defence: a mask is AES-256's keystream under a key of 256 bits, whole words of a ring that nobody chooses
    (`prg.add_mask`).
    """
    cohort = gather_cohort()
    play = Play(cohort, open_round(cohort)).play_out(stages=3)
    right, asked = _signs(play)
    hits = (right - asked / 2) / (asked / 4) ** 0.5
    bits = _varying_bits()
    one = os.urandom(KEY)
    alike = keystream(Secret(one), 64) == keystream(Secret(one[4:] + one[:4]), 64)
    spread, top = _bytes_off()
    sound = abs(hits) < _SIGMAS and bits == 8 * KEY and not alike and abs(spread) < _SIGMAS and top
    what = (
        f"{right} of {asked} signs read right before any unmasking, {hits:+.1f} sigma from chance; "
        f"keys of {bits} bits; seeds of one fold, {'one mask' if alike else 'two masks'}; "
        f"bytes {spread:+.1f} sigma from uniform, top value {'drawn' if top else 'never drawn'}"
    )
    return Outcome("mask-seed", sound, what)


def known_plaintext() -> Outcome:
    """The counters of an update are known beforehand, so their mask is: it is tried on the update, and keys on it.

    Of four partners one colludes and one is named as a drop-out, so that one unknown pairwise mask is left.

    Defence: each channel has a key of its own, of 256 bits (`bindings.pair_key`).
    """
    cohort = gather_cohort(4, owned=[0], victim=1)
    play = Play(cohort, open_round(cohort)).play_out(stages=3)
    play.agree(dict.fromkeys((1, 2), (0, 1, 2)), only=(1, 2))
    play.unmask()
    seen, masked = play.seen[1], play.masked[1]
    counters, update = masked.counters.copy(), masked.update.copy()
    left = play.hoard.take_off(counters, seen, channel="counters", among=())
    play.hoard.take_off(update, seen, channel="update", among=())
    stream = counters[:2] - np.array([_WEIGHT, _CLIPPED], dtype=np.uint64)
    update[:4] -= stream.view("<u4")
    same, _ = play.compare(update[:4])
    fits = sum(_fits(number, stream) for number in range(_TRIED))
    what = (
        f"{left} mask left on the counters, 16 bytes of it known: taken off the update it shows {same} of 4 entries; "
        f"{fits} of {_TRIED:,} keys tried of 2^256 fit"
    )
    return Outcome("known-plaintext", not same and not fits, what)


def model_inconsistency() -> Outcome:
    """Peers get a network whose units never fire, so that all but the victim's update is zero in the sum.

    Source: Pasquini, Francati and Ateniese 2022, arXiv:2111.07380. Every message of the protocol itself is honest.

    Defence: masks are bound to what was asked (`bindings.pair_key`), so those between victim and peers do not cancel.
    """
    cohort = gather_cohort()
    play = Play(cohort, open_round(cohort)).play_out(stages=2)
    play.mask(models={i: live_model() if i == VICTIM else dead_model() for i in cohort.honest})
    play.agree()
    play.unmask()
    how = f"{len(cohort.others)} of {SEVEN} got a dead model; {play.revealed} partners gave their shares"
    return play.outcome("model-inconsistency", play.expose(cohort.honest), how=how)


def _signs(play: Play) -> tuple[int, int]:
    """Signs of the honest updates that are those of what was sent, and all that there are to read."""
    right = asked = 0
    for i, update in play.cohort.partners.updates.items():
        moved = update != 0
        right += int(((play.masked[i].update.view(np.int32) > 0) == (update > 0))[moved].sum())
        asked += int(moved.sum())
    return right, asked


def _varying_bits() -> int:
    """Bits of pairwise keys that are not always 0, and not always 1, over 64 pairs."""
    keys = []
    for _ in range(64):
        secret = agree(Secret(os.urandom(KEY)), public_of(Secret(os.urandom(KEY))))
        name: Digest = digest(os.urandom(KEY))
        keys.append(np.frombuffer(pair_key(secret, session=name, request=name, pair=(0, 1), channel="update"), "u1"))
    ones, zeros = np.bitwise_or.reduce(keys), np.bitwise_or.reduce([~key for key in keys])
    return int(np.bitwise_count(ones & zeros).sum())


def _bytes_off() -> tuple[float, bool]:
    """Chi-square of a mask's bytes over 255 degrees of freedom, in sigmas; whether the top value of a byte is drawn."""
    mask = np.zeros(1 << 18, dtype=np.uint32)
    add_mask(mask, Secret(os.urandom(KEY)), sign=1)
    counts: NDArray[np.int64] = np.bincount(mask.view(np.uint8), minlength=256)
    expected = mask.nbytes / 256
    chi = float(((counts - expected) ** 2).sum() / expected)
    return (chi - 255) / (2 * 255) ** 0.5, bool(counts[255])


def _fits(number: int, stream: NDArray[np.uint64]) -> bool:
    """Whether the key with this number makes the known part of the mask, added or taken off."""
    first = int.from_bytes(keystream(Secret(number.to_bytes(KEY, "little")), 8), "little")
    return int(stream[0]) in (first, -first % 2**64)
