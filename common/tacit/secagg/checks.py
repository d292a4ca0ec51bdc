"""What a partner looks at before it answers. Each check raises `Abort` or says nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol, TypeVar

from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.bindings import presence_text
from tacit.secagg.constants import COLLUDERS, EDGE_UNIT
from tacit.secagg.keys import PublicKey, Signature, verifies
from tacit.secagg.messages import Presence
from tacit.secagg.round import Party, Round
from tacit.secagg.states import Masked

__all__ = [
    "check_adverts",
    "check_company",
    "check_holders",
    "check_list",
    "check_presences",
    "check_round",
    "check_state",
]


class _Advert(Protocol):
    @property
    def sender(self) -> int: ...
    @property
    def signature(self) -> Signature: ...
    @property
    def keys(self) -> tuple[PublicKey, ...]: ...


A = TypeVar("A", bound=_Advert)
S = TypeVar("S")


def check_state(state: object, kind: type[S], stage: Stage) -> S:
    """`state`, which is of the kind that awaits the step at hand."""
    if not isinstance(state, kind):
        found = f"expected a partner in state {kind.__name__}, found {type(state).__name__}"
        raise Abort(stage, Reason.ORDER, found)
    return state


def check_round(new: Round, party: Party) -> int:
    """The round is one that the partner's rules allow; gives the own position in it."""
    stage, me = Stage.ADVERTISE, new.position(party.name)
    if me is None or new.members[me].identity != party.identity:
        raise Abort(stage, Reason.NOT_LISTED, f"expected {party.name} with its own key in the cohort, found it not")
    for member in new.members:
        if party.rules.peers.get(member.name, member.identity) != member.identity:
            found = f"expected the pinned identity key of {member.name}, found another under its name"
            raise Abort(stage, Reason.IDENTITY, found)
    n, floor = len(new.members), party.rules.least_threshold(len(new.members))
    if new.threshold < floor:
        found = f"expected a threshold of at least {floor} of {n}, found {new.threshold}"
        raise Abort(stage, Reason.THRESHOLD, found)
    check_company(new, party, range(n), stage=stage)
    return me


def check_company(new: Round, party: Party, positions: Collection[int], *, stage: Stage) -> None:
    """Those present hide the partner from a server that owns all the others.

    Strangers, who may all be the server's, must also be too few to sign two lists of survivors: two sets of t in a
    cohort of n have 2t - n members in common.
    """
    rules = party.rules
    accepted = sum(new.members[i].identity == party.identity or rules.accepts(new.members[i]) for i in positions)
    if accepted < rules.min_cohort:
        found = f"expected at least {rules.min_cohort} accepted partners, itself among them, found {accepted}"
        raise Abort(stage, Reason.COHORT, f"{found} of {len(positions)}")
    n, strangers = len(new.members), len(positions) - accepted
    most = 2 * new.threshold - n - 1
    if new.edges < EDGE_UNIT:  # the bound of a sparse graph is for fewer than n/3
        most = min(most, (n - 1) // COLLUDERS)
    if strangers > most:
        found = f"expected at most {most} partners that are not accepted peers, found {strangers}"
        raise Abort(stage, Reason.STRANGERS, found)


def check_adverts(new: Round, adverts: Mapping[int, A], *, own: A, text: Callable[[A], bytes]) -> None:
    """Everyone's keys are signed, new, enough, and the own ones unchanged.

    Args:
        text: what the sender of an advert signed.
    """
    stage = Stage.SHARE
    if adverts.get(own.sender) != own:
        raise Abort(stage, Reason.OWN_KEYS, "expected the own keys among all, found them changed or missing")
    if max(adverts) >= len(new.members):
        raise Abort(stage, Reason.NOT_LISTED, f"expected positions below {len(new.members)}, found {max(adverts)}")
    if len(adverts) < new.threshold:
        raise Abort(stage, Reason.TOO_FEW, f"expected keys of at least {new.threshold} partners, found {len(adverts)}")
    keys = [key for advert in adverts.values() for key in advert.keys]
    if len(set(keys)) != len(keys):
        raise Abort(stage, Reason.DUPLICATE, "expected keys of their own from all, found one twice")
    for i, advert in adverts.items():
        if not verifies(advert.signature, identity=new.members[i].identity, message=text(advert)):
            name = new.members[i].name
            raise Abort(stage, Reason.SIGNATURE, f"expected keys signed by {name}, found another signature")


def check_list(positions: tuple[int, ...], *, within: Collection[int], me: int, threshold: int, stage: Stage) -> None:
    """A list of partners is within that of the stage before, long enough, and has this partner in it."""
    if not set(positions) <= set(within):
        raise Abort(stage, Reason.NOT_LISTED, "expected partners of the stage before only, found another")
    if me not in positions:
        raise Abort(stage, Reason.NOT_LISTED, "expected this partner in the list, found it missing")
    if len(positions) < threshold:
        raise Abort(stage, Reason.TOO_FEW, f"expected at least {threshold} partners, found {len(positions)}")


def check_holders(neighbours: tuple[int, ...], present: Collection[int], *, needed: int, stage: Stage) -> None:
    """Enough holders of this partner's shares live: with fewer it might be alone with the server's own."""
    live = len(set(neighbours) & set(present)) + 1
    if live < needed:
        raise Abort(stage, Reason.TOO_FEW, f"expected at least {needed} live holders of shares, found {live}")


def check_presences(state: Masked, presences: Collection[Presence]) -> None:
    """Every neighbour that survived masked with the partners that this one was shown: it signed the same U2."""
    text = presence_text(state.round, session=state.session, request=state.request, present=state.present)
    for presence in presences:
        if presence.sender not in state.neighbours:
            continue
        member = state.round.members[presence.sender]
        if not verifies(presence.signature, identity=member.identity, message=text):
            found = f"expected {member.name} to have masked with the partners shown here, found another list"
            raise Abort(Stage.AGREE, Reason.SIGNATURE, found)
