"""Attacks by a server that lies about who survived, to get both secrets of one partner or a sum of few."""

from __future__ import annotations

from dataclasses import replace

from tacit.secagg.messages import encode
from tacit.wire import UNMASK, Letter, Refusal
from tacit_sim.attacks.cohort import SEVEN, VICTIM, gather_cohort
from tacit_sim.attacks.outcome import Outcome, join
from tacit_sim.attacks.play import Play, open_round

__all__ = ["both_shares", "different_survivors", "second_unmask", "short_list"]

_ALL = tuple(range(SEVEN))
_WITHOUT = tuple(i for i in _ALL if i != VICTIM)


def both_shares() -> Outcome:
    """Everyone signs a list with the victim in it; before any share is given the peers are asked for one without.

    Defence: `client.approve` signs one list a round, and one answer names one secret an owner.
    """
    play = _masked()
    play.agree()
    play.agree(dict.fromkeys(play.cohort.others, _WITHOUT), only=play.cohort.others)
    play.unmask()
    how = f"{len(play.cohort.others)} peers asked to sign a second list, without the victim"
    return play.outcome("both-shares", play.expose(), how=how)


def different_survivors() -> Outcome:
    """Some hear that the victim lives, the others that it died; colluders sign both lists.

    Defence: signatures of a threshold over the same list, which two lists can not both get (`client.unmask`), as long
    as the threshold is not the server's choice (`Rules.least_threshold`).
    """
    usual = _two_lists(None, alive=(1, 2, VICTIM))
    low = _two_lists(SEVEN // 2 + 1, alive=(1, VICTIM))
    return join("different-survivors", (usual, low))


def _two_lists(threshold: int | None, *, alive: tuple[int, ...]) -> Outcome:
    play = _masked(threshold)
    gone = [i for i in play.cohort.honest if i not in alive]
    play.agree({**dict.fromkeys(alive, _ALL), **dict.fromkeys(gone, _WITHOUT)})
    play.unmask()
    how = f"{len(alive)} told it lives, {len(gone)} that it died, threshold {play.round.threshold} of {SEVEN}"
    return play.outcome("different-survivors", play.expose(), how=how)


def short_list() -> Outcome:
    """The victim is told that it survived with the colluders alone, or is named five times in the list.

    Defence: `checks.check_list` wants a threshold of survivors, and decoding each of them once.
    """
    return join("short-list", (_short((0, VICTIM, 6)), _short((VICTIM,) * 5)))


def _short(survivors: tuple[int, ...]) -> Outcome:
    play = _masked()
    play.agree({VICTIM: survivors}, only=[VICTIM])
    play.unmask()
    named = "named 5 times" if len(survivors) == 5 else "named with 2 colluders"
    return play.outcome("short-list", play.expose(), how=f"the only survivor, {named}")


def second_unmask() -> Outcome:
    """A finished round is unmasked again: the same list once more, and one without the victim.

    Defence: `client.unmask` leaves a state that holds nothing (`states.Done`).
    """
    play = _masked()
    play.agree()
    play.unmask()
    answered, again = play.revealed, Letter("server", encode(play.quorum(VICTIM), context=play.round.context)).pack()
    answer = play.cohort.partners.tell(VICTIM, UNMASK, again)
    if isinstance(answer, Refusal):
        play.note(VICTIM, answer)
    play.agree(dict.fromkeys(play.cohort.others, _WITHOUT), only=play.cohort.others)
    play.unmask(only=play.cohort.others)
    how = f"after {answered} answers, asked again with the victim and without"
    found = play.outcome("second-unmask", play.expose(), how=how)
    return replace(found, refused=found.refused and isinstance(answer, Refusal))


def _masked(threshold: int | None = None) -> Play:
    cohort = gather_cohort()
    return Play(cohort, open_round(cohort, threshold=threshold)).play_out(stages=3)
