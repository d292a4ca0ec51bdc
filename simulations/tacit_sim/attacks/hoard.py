"""What a lying server can work out: secrets from shares, masks from secrets, and what is left without them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from tacit.secagg.bindings import commitment, pair_key, seed_key, share_address
from tacit.secagg.constants import SHARE
from tacit.secagg.graph import Graph
from tacit.secagg.keys import Digest, PublicKey, Secret, agree, derive, open_sealed, public_of
from tacit.secagg.messages import Advert, Envelopes
from tacit.secagg.prg import add_mask
from tacit.secagg.shamir import combine

__all__ = ["Hoard", "Seen"]


@dataclass(frozen=True, repr=False)
class Seen:
    """What one partner was told, which its masks follow from.

    Attributes:
        position: of the partner.
        adverts: everyone's keys, as told to it.
        session: what it makes of them.
        graph: the same.
        present: U2, as told to it.
        request: what it was asked in stage 2.
    """

    position: int
    adverts: Mapping[int, Advert]
    session: Digest
    graph: Graph
    present: Collection[int]
    request: Digest


@dataclass(repr=False)
class Hoard:
    """All that the server holds, over one round or several.

    Attributes:
        secrets: X25519 keys by their public half.
        seeds, keys: shares of each owner's seed and mask key, by holder.
        commitments: what each owner published of its seed.
    """

    secrets: dict[PublicKey, Secret] = field(default_factory=dict)
    seeds: dict[int, dict[int, Secret]] = field(default_factory=dict)
    keys: dict[int, dict[int, Secret]] = field(default_factory=dict)
    commitments: dict[int, Digest] = field(default_factory=dict)

    def add_key(self, secret: Secret) -> PublicKey:
        """Hold `secret`; gives its public half."""
        public = public_of(secret)
        self.secrets[public] = secret
        return public

    def next_round(self) -> Hoard:
        """What is left of a round in the next one: the keys alone."""
        return Hoard(self.secrets)

    def open_envelopes(self, envelopes: Envelopes, seen: Seen) -> None:
        """Open those sealed for a key that the server has."""
        owner = seen.position
        self.commitments[owner] = envelopes.commitment
        for receiver, sealed in envelopes.sealed:
            key = self.secrets.get(seen.adverts[receiver].share_key)
            if key is None:
                continue
            address = share_address(seen.session, sender=owner, receiver=receiver)
            plain = open_sealed(derive(agree(key, seen.adverts[owner].share_key), address), sealed, bound=address)
            if plain is not None:
                self.seeds.setdefault(owner, {})[receiver + 1] = Secret(plain[:SHARE])
                self.keys.setdefault(owner, {})[receiver + 1] = Secret(plain[SHARE:])

    def learn_key(self, owner: int, public: PublicKey) -> None:
        """Rebuild the mask key of `owner`, if there are shares enough: what they give must fit `public`."""
        found = _combined(self.keys.get(owner, {}))
        if found is not None and public_of(found) == public:
            self.secrets[public] = found

    def take_off(self, values: NDArray[Any], seen: Seen, *, channel: str, among: Collection[int]) -> int:
        """Take off one partner's masked `values`, in place, every mask that can be worked out.

        Args:
            among: partners whose vectors are added to this one, so that the masks between them are left to cancel.

        Returns:
            Masks that are left and will not cancel.
        """
        me, left = seen.position, 0
        seed = _combined(self.seeds.get(me, {}))
        if seed is not None and commitment(seed, session=seen.session, owner=me) == self.commitments.get(me):
            add_mask(values, seed_key(seed, session=seen.session, owner=me, channel=channel), sign=-1)
        else:
            left += 1
        for j in seen.graph.neighbours(me):
            if j not in seen.present or j in among:
                continue
            secret = self._between(seen.adverts[me].mask_key, seen.adverts[j].mask_key)
            if secret is None:
                left += 1
                continue
            key = pair_key(secret, session=seen.session, request=seen.request, pair=(me, j), channel=channel)
            add_mask(values, key, sign=-1 if me < j else 1)
        return left

    def _between(self, one: PublicKey, other: PublicKey) -> Secret | None:
        if other in self.secrets:
            return agree(self.secrets[other], one)
        return agree(self.secrets[one], other) if one in self.secrets else None


def _combined(shares: Mapping[int, Secret]) -> Secret | None:
    try:
        return combine(shares)
    except ValueError:
        return None
