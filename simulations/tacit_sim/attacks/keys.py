"""Attacks by a server that changes the keys that partners are told."""

from __future__ import annotations

import os

from tacit.secagg.constants import KEY
from tacit.secagg.keys import PublicKey, Secret
from tacit.secagg.messages import Advert
from tacit_sim.attacks.cohort import OWNED, SEVEN, VICTIM, gather_cohort
from tacit_sim.attacks.outcome import Outcome, join
from tacit_sim.attacks.play import Play, open_round

__all__ = ["missing_keys", "repeated_key", "roster_split", "swapped_keys"]


def swapped_keys() -> Outcome:
    """The victim is told the server's keys in its honest peers' place, so that it seals its secrets for the server.

    Defence: every key is signed with the identity key that the victim pinned (`checks.verifies`).
    """
    cohort = gather_cohort()
    play = Play(cohort, open_round(cohort))
    play.advertise()
    signer = Secret(os.urandom(KEY))
    play.share({VICTIM: play.roster({i: play.own_advert(i, signer=signer) for i in cohort.others})})
    play.mask()
    how = f"keys of {len(cohort.others)} honest peers swapped for the server's"
    return play.outcome("swapped-keys", play.expose(), how=how)


def repeated_key() -> Outcome:
    """Two colluders show the mask keys of honest peers on the other side of the victim, whose masks they are to cancel.

    The remaining two honest peers are named as drop-outs, so that their mask keys are given out. A key that differs
    in its highest bit is the same to X25519 (RFC 7748, section 5) and no repetition byte by byte.

    Defence: `checks.check_adverts` looks for equal bytes; `bindings.pair_key` binds a mask to the pair.
    """
    return join("repeated-key", (_repeated(twin=False), _repeated(twin=True)))


def _repeated(*, twin: bool) -> Outcome:
    cohort = gather_cohort()
    play = Play(cohort, open_round(cohort))
    play.advertise()
    for own, honest in zip(OWNED, (4, 1), strict=True):
        key = play.adverts[honest].mask_key
        shown = PublicKey(key[:-1] + bytes([key[-1] ^ 0x80])) if twin else key
        play.adverts[own] = play.own_advert(own, mask_key=shown)
    play.share()
    play.mask()
    survivors = tuple(sorted({*OWNED, 1, VICTIM, 4}))
    play.agree(dict.fromkeys(survivors, survivors), only=survivors)
    play.unmask()
    written = "written another way" if twin else "byte by byte"
    how = f"2 colluders repeat keys of honest peers {written}"
    return play.outcome("repeated-key", play.expose(), how=how)


def missing_keys() -> Outcome:
    """The victim is told its own keys and the colluders' alone, or a low threshold that makes do with few.

    Defence: `checks.check_adverts` and `check_holders` want a threshold of keys; `Rules.least_threshold` a high one.
    """
    cohort = gather_cohort()
    play = Play(cohort, open_round(cohort))
    play.advertise()
    play.share({VICTIM: play.roster(only=(*OWNED, VICTIM))})
    play.mask()
    few = play.outcome("missing-keys", play.expose(), how=f"told 3 keys of {SEVEN}")
    low = Play(cohort, open_round(cohort, number=2, threshold=SEVEN // 2 + 1))
    low.advertise()
    low.share({VICTIM: low.roster(only=(*OWNED, 1, VICTIM))})
    low.mask()
    return join("missing-keys", (few, low.outcome("missing-keys", low.expose(), how="threshold 4, told 4 keys")))


def roster_split() -> Outcome:
    """A colluder shows one half of the cohort other keys than the other half, both rightly signed.

    Defence: envelopes, masks and signatures are bound to the whole roster (`bindings.session_of`).
    """
    cohort = gather_cohort()
    play = Play(cohort, open_round(cohort))
    play.advertise()
    other: dict[int, Advert] = {OWNED[1]: play.own_advert(OWNED[1])}
    play.share(dict.fromkeys((1, 2), play.roster(other)))
    play.mask()
    play.agree()
    play.unmask()
    how = "one colluder's keys told in two ways, each rightly signed"
    return play.outcome("roster-split", play.expose(), how=how)
