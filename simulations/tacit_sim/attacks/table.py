"""Every attack, by name: those on secure aggregation, first with a counterpart against Flower, in its order, then our
own; and those on what is learnt, which ask what a mechanism is for."""

from __future__ import annotations

from collections.abc import Callable

from tacit_sim.attacks.company import small_cohort, strangers, strangers_at_the_end
from tacit_sim.attacks.content import tampered_share, wrong_length
from tacit_sim.attacks.crowd import graph, inbox_split
from tacit_sim.attacks.inversion import gradient_inversion
from tacit_sim.attacks.keys import missing_keys, repeated_key, roster_split, swapped_keys
from tacit_sim.attacks.lists import both_shares, different_survivors, second_unmask, short_list
from tacit_sim.attacks.masks import known_plaintext, mask_seed, model_inconsistency
from tacit_sim.attacks.membership import membership
from tacit_sim.attacks.outcome import Outcome
from tacit_sim.attacks.rounds import changed_job, clear_after_secure, out_of_order, replay, second_job

__all__ = ["ATTACKS", "LEARNING"]

ATTACKS: dict[str, Callable[[], Outcome]] = {
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
    "clear-after-secure": clear_after_secure,
    "roster-split": roster_split,
    "inbox-split": inbox_split,
    "graph": graph,
    "strangers-at-the-end": strangers_at_the_end,
    "second-job": second_job,
}

LEARNING: dict[str, Callable[[], Outcome]] = {
    "gradient-inversion": gradient_inversion,
    "membership": membership,
}
"""Each is carried out on a model without protection too, and fails as an attack where it does not succeed there."""
