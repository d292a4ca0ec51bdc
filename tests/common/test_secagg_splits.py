"""A server that shows its partners two lists of survivors, to have both shares of one of them: no split gives both."""

from __future__ import annotations

from itertools import product

import pytest
from cohort import REQUEST, Drive, aborts, make_parties, make_round, secret_key, survivors_of

from tacit.secagg import client
from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.bindings import agreement_text
from tacit.secagg.keys import sign
from tacit.secagg.messages import Agreement, Quorum, Reveal, decode, encode
from tacit.secagg.shamir import combine

VICTIM = 0


class _Attack:
    """A masked cohort whose last members collude; the server holds what they hold and signs with their keys."""

    def __init__(self, n: int, *, colluding: int, threshold: int | None = None) -> None:
        new = make_round(n, threshold=threshold)
        self.drive = Drive(new, make_parties(new)).to(Stage.AGREE)
        self.round, self.masked = new, self.drive.at[Stage.AGREE].states
        self.honest = list(range(n - colluding))
        self.colluding = list(range(n - colluding, n))
        self.lists = {True: tuple(range(n)), False: tuple(i for i in range(n) if i != VICTIM)}
        self._agreed = {
            (i, alive): client.approve(self.masked[i], self._survivors(alive))
            for i in self.honest
            for alive in (True, False)
            if i in self.lists[alive]
        }
        self._known = {(i, alive): self._signed(i, alive) for i in self.colluding for alive in (True, False)}

    def _survivors(self, alive: bool) -> bytes:
        return survivors_of(self.drive, self.lists[alive])

    def _signed(self, i: int, alive: bool) -> Agreement:
        state = self.masked[i]
        text = agreement_text(self.round, session=state.session, request=REQUEST, survivors=self.lists[alive])
        return Agreement(i, sign(secret_key(i), text))

    def shares(self, told: dict[int, bool | None]) -> dict[bool, dict[int, bytes]]:
        """Shares of the victim by kind, where each honest partner was told that the victim is alive, that it is not,
        or nothing."""
        found = {
            alive: {i + 1: self.masked[i].held[VICTIM][not alive] for i in self.colluding} for alive in (True, False)
        }
        for alive in (True, False):
            group = [i for i, heard in told.items() if heard is alive]
            quorum = self._quorum(group, alive)
            for i in group:
                try:
                    _, data = client.unmask(self._agreed[i, alive][0], quorum)
                except Abort as error:
                    if (error.stage, error.reason) != (Stage.UNMASK, Reason.TOO_FEW):
                        raise
                    continue
                found[alive][i + 1] = dict(decode(Reveal, data, context=self.round.context).shares)[VICTIM]
        return found

    def _quorum(self, group: list[int], alive: bool) -> bytes:
        signed = [decode(Agreement, self._agreed[i, alive][1], context=self.round.context) for i in group]
        signed += [self._known[i, alive] for i in self.colluding]
        return encode(Quorum(tuple(sorted(signed, key=lambda a: a.sender))), context=self.round.context)

    def both(self, told: dict[int, bool | None]) -> bool:
        found = self.shares(told)
        return all(len(shares) >= self.round.threshold for shares in found.values())


def _every_split(honest: list[int]):
    """What each honest partner can be told; the victim itself would not sign a list without it."""
    for rest in product((True, False, None), repeat=len(honest) - 1):
        for victim in (True, None):
            yield dict(zip(honest, (victim, *rest), strict=True))


def _every_size(honest: list[int]):
    """The same up to the order of the partners, which are alike but for the victim."""
    rest = len(honest) - 1
    for alive in range(rest + 1):
        for dead in range(rest - alive + 1):
            heard = (True,) * alive + (False,) * dead + (None,) * (rest - alive - dead)
            for victim in (True, None):
                yield dict(zip(honest, (victim, *heard), strict=True))


@pytest.mark.parametrize("n", [4, 5, 6, 7, 8])
def test_no_split_gives_both_shares(n):
    attack = _Attack(n, colluding=-(-n // 3) - 1)
    splits = list(_every_split(attack.honest))
    assert len(splits) == 2 * 3 ** (len(attack.honest) - 1)
    assert not any(attack.both(told) for told in splits)


@pytest.mark.parametrize("n", [9, 10])
def test_no_split_of_any_size_gives_both_shares(n):
    attack = _Attack(n, colluding=-(-n // 3) - 1)
    splits = list(_every_size(attack.honest))
    rest = len(attack.honest) - 1
    assert len(splits) == (rest + 1) * (rest + 2)
    assert not any(attack.both(told) for told in splits)


@pytest.mark.parametrize(("n", "colluding", "threshold"), [(4, 2, 3), (7, 3, 5), (10, 4, 7), (6, 2, 4), (9, 3, 6)])
def test_one_colluder_more_or_one_survivor_fewer_would_do(n, colluding, threshold):
    """The search finds what is there: beyond what is allowed both secrets come out."""
    attack = _Attack(n, colluding=colluding, threshold=threshold)
    broken = [told for told in _every_size(attack.honest) if attack.both(told)]
    assert broken
    found = attack.shares(broken[0])
    begun = attack.drive.at[Stage.SHARE].states[VICTIM]
    seed = attack.drive.at[Stage.MASK].states[VICTIM].seed
    assert combine(dict(list(found[True].items())[: attack.round.threshold])) == seed
    assert combine(dict(list(found[False].items())[: attack.round.threshold])) == begun.mask_key


def test_one_side_can_be_had():
    """Telling everybody the same gives one kind, as it should, and of the other nothing beyond the colluders'."""
    attack = _Attack(7, colluding=2)
    for alive in (True, False):
        found = attack.shares({i: None if i == VICTIM and not alive else alive for i in attack.honest})
        assert len(found[alive]) >= attack.round.threshold - (not alive)
        assert len(found[not alive]) == 2


def test_the_victim_signs_no_list_without_it():
    attack = _Attack(5, colluding=1)
    with aborts(Stage.AGREE, Reason.NOT_LISTED):
        client.approve(attack.masked[VICTIM], survivors_of(attack.drive, attack.lists[False]))
