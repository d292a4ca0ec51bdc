"""What the mechanism `client` needs of a job's other sections; each refusal names what would be lost without it."""

from __future__ import annotations

from tacit.check import contradiction
from tacit.protection import PrivacySection
from tacit.sections import (
    NEEDS_SINGLE_UPDATES,
    AggregationSection,
    SimulationSection,
    TrainingSection,
)

__all__ = ["check_users", "check_whole"]


def check_whole(privacy: PrivacySection, training: TrainingSection, aggregation: AggregationSection) -> None:
    """The noise is on the sum of all updates, of which each counts as much, and nothing else is looked at."""
    if training.server_strategy in NEEDS_SINGLE_UPDATES:
        raise contradiction(
            f"expected a strategy that works on the sum with client, found {training.server_strategy}: single updates "
            "carry no noise, so what is chosen among them would be outside of privacy.epsilon",
            hint="use fedavg, fedavgm, fedadam, fedyogi or fedadagrad",
        )
    if aggregation.weighting != "uniform":
        raise contradiction(
            f"expected aggregation.weighting = uniform with client, found {aggregation.weighting}: the weights would "
            "tell how much each partner holds, which privacy.epsilon hides",
            hint="remove aggregation.weighting",
        )
    least = aggregation.cohort or aggregation.min_cohort
    if privacy.delta is not None and privacy.delta >= 1 / least:
        raise contradiction(
            f"expected privacy.delta below one over the {least} partners of a cohort, found {privacy.delta:g}",
            hint="lower privacy.delta: at 1/N it would allow to publish all of one partner outright",
        )


def check_users(simulation: SimulationSection, privacy: PrivacySection, aggregation: AggregationSection) -> None:
    """Users who are drawn by chance: only a server that is trusted anyway can draw them and keep to itself whom."""
    if privacy.mechanism != "client" or privacy.noise_by != "server":
        raise contradiction(
            "expected simulation.user_rate with mechanism client and privacy.noise_by = server only, found it with "
            f"{privacy.mechanism}{' and noise by partners' * (privacy.mechanism == 'client')}: the server draws the "
            "users, so a guarantee that counts on the draw trusts the server",
            hint='remove simulation.user_rate, or set privacy.mechanism = "client" and privacy.noise_by = "server"',
        )
    if aggregation.secure:
        raise contradiction(
            "expected aggregation.secure = false with simulation.user_rate, found true: a round in which too few are "
            "drawn would be given up, and tell so, which privacy.epsilon does not count",
            hint="set aggregation.secure = false: the server that draws the users and adds the noise is trusted anyway",
        )
    if aggregation.cohort is not None:
        raise contradiction(
            f"expected no aggregation.cohort with simulation.user_rate, found {aggregation.cohort}: users are drawn "
            "one by one, and privacy.epsilon counts on it",
            hint="remove aggregation.cohort",
        )
    if privacy.delta is not None and privacy.delta >= 1 / simulation.partners:
        raise contradiction(
            f"expected privacy.delta below one over the {simulation.partners} users, found {privacy.delta:g}",
            hint="lower privacy.delta: at 1/N it would allow to publish all of one user outright",
        )
