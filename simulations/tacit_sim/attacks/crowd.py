"""Attacks in a round so large that only some pairs share masks, with as many colluders as the threshold allows for."""

from __future__ import annotations

from dataclasses import replace

from tacit.errors import BadInput
from tacit.secagg.bindings import session_of
from tacit.secagg.graph import Graph, edge_chance
from tacit.secagg.messages import Roster, encode
from tacit.secagg.round import Round
from tacit.wire import Invite
from tacit_sim.attacks.cohort import JOB, Cohort, gather_cohort
from tacit_sim.attacks.outcome import Outcome, join
from tacit_sim.attacks.play import Play, open_round

__all__ = ["graph", "inbox_split"]

_CROWD, _EDGES, _TRIES = 67, 20, 1000


def graph() -> Outcome:
    """In a round of 67 where only some pairs share masks, the server is after a victim whose peers are all its own.

    It asks for a graph with few edges; and it leaves honest holders out, trying graphs until few are left.

    Defence: `graph.edge_chance` bounds the edges of a `Round` from below, so that honest holders whose masks are
    unknown are left, whomever the threshold allows to leave out.
    """
    return join("graph", (_few_edges(), _few_holders()))


def inbox_split() -> Outcome:
    """The victim is told that too few shared keys: it masks with colluders and with peers who are then named as
    drop-outs, so that their mask keys are given out, while the others are told that everyone shared.

    The victim signs nothing, and is not needed: its seed is rebuilt from what its other peers hold.

    Defence: every vector comes with a signature over those it was masked with (`client.check_presences`).
    """
    cohort, new = _crowd()
    play = Play(cohort, new)
    play.advertise()
    while len(near := _neighbours(play, play.roster()) & set(cohort.others)) == len(cohort.others):
        play.adverts[0] = play.own_advert(0)
    dropped = set(sorted(near)[: new.threshold - len(cohort.owned) - 2])
    play.share()
    whole = play.inbox(cohort.victim)
    told = {*cohort.owned, cohort.victim, *dropped, *(set(cohort.others) - near)}
    few = replace(
        whole, present=tuple(sorted(told)), sealed=tuple((j, sealed) for j, sealed in whole.sealed if j in told)
    )
    play.asked = tuple(i for i in play.asked if i not in dropped)
    play.mask(inboxes={cohort.victim: few})
    survivors = tuple(i for i in range(_CROWD) if i not in dropped)
    play.agree(dict.fromkeys(play.asked, survivors), only=set(cohort.others) - dropped)
    play.unmask()
    how = f"told that {len(told)} of {_CROWD} shared keys, of whom {len(dropped)} were then named as drop-outs"
    return play.outcome("inbox-split", play.expose(), how=how)


def _crowd() -> tuple[Cohort, Round]:
    cohort = gather_cohort(_CROWD, owned=range(0, _CROWD - 1, 3), victim=34)
    new = open_round(cohort)
    return cohort, replace(new, edges=edge_chance(_CROWD, threshold=new.threshold))


def _few_edges() -> Outcome:
    cohort, new = _crowd()
    whole = new.encode()
    told = whole[:-18] + _EDGES.to_bytes(2, "big") + whole[-16:]  # a Round of so few edges can not be built
    try:
        new = Round.decode(told)
    except BadInput:
        honest: tuple[int, ...] = (cohort.victim,)
    else:
        honest = cohort.honest
    play = Play(cohort, new, honest=honest)
    play.advertise(invite=Invite(JOB, told))
    play.asked = (play.cohort.victim,)
    if not play.refusals:
        _isolate(play)
    how = f"{_EDGES} edges in 256 in place of {_crowd()[1].edges}"
    return play.outcome("graph", play.expose(), how=how)


def _isolate(play: Play) -> None:
    """Draw one colluder's keys anew until the victim's neighbours are colluders, then claim that everyone shared."""
    for _ in range(_TRIES):
        play.adverts[0] = play.own_advert(0)
        near = _neighbours(play, play.roster())
        if len(near) > 1 and near <= play.cohort.owned.keys():
            break
    play.share()
    if not play.refusals:
        everyone = replace(play.inbox(play.cohort.victim), present=tuple(range(_CROWD)))
        play.mask(inboxes={play.cohort.victim: everyone})


def _few_holders() -> Outcome:
    cohort, new = _crowd()
    play = Play(cohort, new)
    play.advertise()
    spare = cohort.others[: new.threshold - len(cohort.owned) - 1]
    present, best = {*cohort.owned, cohort.victim, *spare}, play.roster()
    for _ in range(_TRIES // 10):
        play.adverts[0] = play.own_advert(0)
        roster = play.roster(only=present)
        if _honest_near(play, roster) <= _honest_near(play, best):
            best = roster
    play.asked = tuple(i for i in play.asked if i in present)
    play.share(dict.fromkeys(play.asked, best))
    play.mask()
    play.agree(dict.fromkeys(play.asked, tuple(sorted(present))))
    play.unmask()
    left = _honest_near(play, best)
    how = f"{_CROWD - len(present)} honest left out, {left} honest holders left of the best of {_TRIES // 10} graphs"
    return play.outcome("graph", play.expose(), how=how)


def _honest_near(play: Play, roster: Roster) -> int:
    return len(_neighbours(play, roster) - play.cohort.owned.keys())


def _neighbours(play: Play, roster: Roster) -> set[int]:
    new, adverts = play.round, {advert.sender for advert in roster.adverts}
    session = session_of(new, encode(roster, context=new.context))
    drawn = Graph(len(new.members), threshold=new.threshold, edges=new.edges, session=session, present=adverts)
    return set(drawn.neighbours(play.cohort.victim))
