"""Identity keys of virtual partners, each of whom has accepted all the others, and of their server."""

from __future__ import annotations

from functools import lru_cache

from tacit.job import Job
from tacit.privacy.randomness import Randomness
from tacit.secagg.keys import PublicKey, Secret, identity_of
from tacit.secagg.round import Party, Rules

__all__ = ["party", "server_key"]


def party(job: Job, name: str) -> Party:
    """The virtual partner `name` of `job`.

    Guarantee: none. Keys follow from the simulation's seed, which everybody may know; real partners make theirs.
    """
    sim = job.simulation
    least = job.aggregation.min_cohort
    survivors = min(least, job.aggregation.needed(least))  # enough for the job is enough for its virtual partners
    rules = Rules(peers=_peers(sim.seed, sim.partners), min_cohort=survivors)
    return Party(name, _key(sim.seed, name), rules)


def server_key(job: Job) -> Secret:
    """What the simulated server signs with. Guarantee: none, as with `party`."""
    return _key(job.simulation.seed, "server")


@lru_cache(maxsize=4)
def _peers(seed: int, partners: int) -> dict[str, PublicKey]:
    names = (f"partner-{i}" for i in range(partners))
    return {name: identity_of(_key(seed, name)) for name in names}


def _key(seed: int, name: str) -> Secret:
    return Secret(Randomness(seed).stream("identity", name).words(4).tobytes())
