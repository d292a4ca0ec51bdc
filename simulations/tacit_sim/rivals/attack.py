"""Every attack on secure aggregation, carried out against Flower 1.41's own functions."""

from __future__ import annotations

from collections.abc import Callable

from tacit_sim.rivals.dialogue import (
    both_shares,
    different_survivors,
    out_of_order,
    second_unmask,
    short_list,
    tampered_share,
    wrong_length,
)
from tacit_sim.rivals.mask import known_plaintext, mask_seed
from tacit_sim.rivals.substitution import (
    changed_job,
    missing_keys,
    model_inconsistency,
    repeated_key,
    replay,
    small_cohort,
    strangers,
    swapped_keys,
)
from tacit_sim.rivals.victim import Obtained

__all__ = ["ATTACKS", "Obtained"]

ATTACKS: dict[str, Callable[[], Obtained]] = {
    "swapped-keys": swapped_keys,
    "both-shares": both_shares,
    "repeated-key": repeated_key,
    "missing-keys": missing_keys,
    "different-survivors": different_survivors,
    "short-list": short_list,
    "second-unmask": second_unmask,
    "replay": replay,
    "out-of-order": out_of_order,
    "tampered-share": tampered_share,
    "wrong-length": wrong_length,
    "strangers": strangers,
    "small-cohort": small_cohort,
    "changed-job": changed_job,
    "mask-seed": mask_seed,
    "known-plaintext": known_plaintext,
    "model-inconsistency": model_inconsistency,
}
