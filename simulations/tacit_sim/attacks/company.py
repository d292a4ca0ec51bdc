"""Attacks by a server that picks the victim's company."""

from __future__ import annotations

from tacit_sim.attacks.cohort import SEVEN, VICTIM, gather_cohort
from tacit_sim.attacks.outcome import Outcome
from tacit_sim.attacks.play import Play, open_round

__all__ = ["small_cohort", "strangers", "strangers_at_the_end"]


def strangers() -> Outcome:
    """The server runs everyone but the victim, none of them a peer that the victim accepted.

    Defence: only accepted peers count towards the partner's own minimum (`checks.check_company`).
    """
    theirs = [i for i in range(SEVEN) if i != VICTIM]
    cohort = gather_cohort(owned=theirs, strangers=theirs)
    play = Play(cohort, open_round(cohort)).play_out()
    how = f"{len(theirs)} of {SEVEN} partners were the server's"
    return play.outcome("strangers", play.expose(), how=how)


def small_cohort() -> Outcome:
    """A round of two: the victim and a colluder that it accepted.

    Defence: the partner's own minimum, whatever the job says (`checks.check_company`).
    """
    cohort = gather_cohort(2, owned=[0], victim=1)
    play = Play(cohort, open_round(cohort)).play_out()
    return play.outcome("small-cohort", play.expose(), how="a round of 2, one of them the server's")


def strangers_at_the_end() -> Outcome:
    """The cohort begins with five accepted partners of seven; two of them, all that are honest beside the victim, are
    then named as drop-outs, so that it survives with colluders and strangers.

    Defence: the company is counted again among the survivors (`client.check_company`).
    """
    cohort = gather_cohort(owned=(0, 1, 5, 6), strangers=(5, 6), min_cohort=4)
    play = Play(cohort, open_round(cohort)).play_out(stages=3)
    survivors = (*cohort.owned, VICTIM)
    play.agree({VICTIM: tuple(sorted(survivors))}, only=[VICTIM])
    play.unmask()
    how = "2 colluders and 2 strangers survive with the victim, whose minimum is 4"
    return play.outcome("strangers-at-the-end", play.expose(), how=how)
