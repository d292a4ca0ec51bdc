"""The sections of a job, all but `[privacy]`; `tacit.job` joins them and checks what they say of each other."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tacit.check import contradiction
from tacit.secagg.graph import default_threshold

__all__ = [
    "NEEDS_SINGLE_UPDATES",
    "SERVER_OPTIONS",
    "AggregationSection",
    "EvaluationSection",
    "PerformanceSection",
    "Section",
    "SimulationSection",
    "TaskSection",
    "TrainingSection",
]

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]

# Flower's strategies (flwr 1.41, flwr.serverapp.strategy) and the numbers each takes.
SERVER_OPTIONS: dict[str, frozenset[str]] = {
    "bulyan": frozenset({"num_malicious_nodes"}),
    "fedadagrad": frozenset({"eta", "tau"}),
    "fedadam": frozenset({"beta_1", "beta_2", "eta", "tau"}),
    "fedavg": frozenset(),
    "fedavgm": frozenset({"server_learning_rate", "server_momentum"}),
    "fedmedian": frozenset(),
    "fedtrimmedavg": frozenset({"beta"}),
    "fedyogi": frozenset({"beta_1", "beta_2", "eta", "tau"}),
    "krum": frozenset({"num_malicious_nodes"}),
    "multikrum": frozenset({"num_malicious_nodes", "num_nodes_to_select"}),
}
# These look at each partner's own update, which secure aggregation exists to hide.
NEEDS_SINGLE_UPDATES = frozenset({"bulyan", "fedmedian", "fedtrimmedavg", "krum", "multikrum"})


class Section(BaseModel):
    """Frozen and strict: an unknown key or another type is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class TaskSection(Section):
    """What is learned.

    A partner reads its data with `tacit.data.files.read(..., classes=job.task.labels or None)`: so all partners number
    the classes in the same way, and a label that the job does not know is refused. Every run on a real server has
    `labels`, from the test set where the job leaves them out. Where they are empty, as in a simulation, the classes are
    the numbers from 0 to `options["classes"]` - 1.
    """

    kind: str
    """image-classification, text-classification, or the name of an installed task (entry point `tacit.tasks`)."""
    model: str
    """A model of that task."""
    options: dict[str, Any] = {}
    """What the model takes; checked against the model's own options."""
    labels: tuple[str, ...] = ()
    """Names of the classes in the order of their numbers, as they stand in every partner's data: text without blanks
    around it, and whole numbers as their digits."""
    package: str = ""
    """Filled in when the job is resolved: the package and version that the task came from."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        before: set[str] = set()
        for place, name in enumerate(self.labels):
            if not name or name != name.strip() or name in before:
                raise contradiction(
                    f"expected task.labels that differ, without blanks around them, found {name!r} as number {place}",
                    hint="name every class once, as it stands in the data",
                )
            before.add(name)
        classes = self.options.get("classes", len(self.labels))
        if self.labels and classes != len(self.labels):
            raise contradiction(
                f"expected task.labels for {classes} classes as in task.options.classes, found {len(self.labels)}",
                hint="name every class once, or leave out one of the two",
            )
        return self


class TrainingSection(Section):
    """How it is learned."""

    rounds: Annotated[int, Field(gt=0, le=1_000_000)]
    local_steps: Annotated[int, Field(gt=0, le=1_000_000)]
    """Steps of the local optimiser a round."""
    batch_size: PositiveInt
    """Expected batch under Poisson sampling; also the divisor of every step. With `distributed-dp-sgd`: of all
    partners together."""
    population: Annotated[int, Field(gt=0, le=10**10)] | None = None
    """Units of all partners together, in round numbers. With `distributed-dp-sgd` every partner samples at the one rate
    `batch_size / population`, whatever it holds."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0.0, le=1e4)]
    momentum: Share = 0.0
    """Of sgd; starts from zero in every round, as the partners hold no state between rounds."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls over the rounds; linear and cosine end near zero."""
    server_strategy: str = "fedavg"
    """One of Flower's strategies."""
    server_options: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = {}
    """Numbers of that strategy."""
    max_failed_rounds: Annotated[int, Field(ge=0)] = 3
    """Rounds that may fail in a row before the run stops."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = SERVER_OPTIONS.get(self.server_strategy)
        if known is None:
            raise contradiction(
                f"expected training.server_strategy to be a strategy of Flower's, found {self.server_strategy}",
                hint=f"use one of: {', '.join(sorted(SERVER_OPTIONS))}",
            )
        for key in self.server_options:
            if key not in known:
                raise contradiction(
                    f"expected an option of {self.server_strategy} in training.server_options, found {key}",
                    hint=f"use one of: {', '.join(sorted(known)) or 'none'}",
                )
        if self.optimizer == "adam" and self.momentum:
            raise contradiction(
                f"expected no training.momentum with adam, found {self.momentum}", hint="remove training.momentum"
            )
        return self

    def learning_rate_at(self, round_number: int) -> float:
        """The learning rate of a round, 1-based."""
        from math import cos, pi

        done = (round_number - 1) / self.rounds
        match self.schedule:
            case "constant":
                return self.learning_rate
            case "linear":
                return self.learning_rate * (1 - done)
            case "cosine":
                return self.learning_rate * (1 + cos(pi * done)) / 2


class AggregationSection(Section):
    """How updates are joined."""

    secure: bool = True
    """The server sees the sum only."""
    min_cohort: PositiveInt = 3
    """A round begins only when this many partners can be asked."""
    cohort: PositiveInt | None = None
    """Partners asked in a round, chosen at random; all that are there when left out."""
    threshold: PositiveInt | None = None
    """Replies without which a round is abandoned: two thirds of the cohort, rounded down, and one more. With secure
    aggregation a lower number counts as that one; without, it is 3 or `min_cohort` when left out."""
    round_timeout: PositiveFloat = 600.0
    """Seconds to wait for a round's replies."""
    stage_timeout: PositiveFloat = 120.0
    """Seconds to wait for the replies of a stage of secure aggregation in which nobody trains."""
    max_update_norm: PositiveFloat = 100.0
    """L2 bound of a partner's whole update; a longer one is shrunk to it, and the history counts these."""
    weighting: Literal["uniform", "examples"] = "uniform"
    """How partners weigh in the mean. By examples: with their count, to two digits where a mechanism protects it."""
    max_weight: PositiveInt = 10_000
    """The most examples that a partner counts for."""
    max_colluders: Annotated[int, Field(ge=0)] = 1
    """Partners that may work together with the server. Where partners add shares of one noise (`distributed-dp-sgd`,
    and `client` with noise by partners), the shares of all other survivors are enough."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        size = self.cohort or self.min_cohort
        if self.secure and self.min_cohort < 3:
            raise contradiction(
                f"expected aggregation.min_cohort of at least 3 with aggregation.secure = true, found "
                f"{self.min_cohort}",
                hint="raise aggregation.min_cohort: of a sum of two each knows the other's part; or set "
                "aggregation.secure = false",
            )
        if self.secure and self.threshold is not None and 2 * self.threshold <= size:
            raise contradiction(
                f"expected aggregation.threshold above half of the cohort of {size} with aggregation.secure = true, "
                f"found {self.threshold}",
                hint=f"raise aggregation.threshold to {default_threshold(size)} or leave it out: two halves could be "
                "unmasked apart",
            )
        if self.threshold is not None and self.threshold > self.min_cohort:
            raise contradiction(
                f"expected aggregation.threshold to be at most min_cohort {self.min_cohort}, found {self.threshold}",
                hint="lower aggregation.threshold or raise aggregation.min_cohort",
            )
        if self.cohort is not None and self.cohort < self.min_cohort:
            raise contradiction(
                f"expected aggregation.cohort to be at least min_cohort {self.min_cohort}, found {self.cohort}",
                hint="raise aggregation.cohort or lower aggregation.min_cohort",
            )
        return self

    @property
    def full_weight(self) -> int:
        """The weight of a partner whose update goes into the sum undiminished."""
        return self.max_weight if self.weighting == "examples" else 1

    def needed(self, cohort: int) -> int:
        """Replies without which a round with `cohort` partners is abandoned."""
        if self.secure:
            return max(self.threshold or 0, default_threshold(cohort))
        return self.threshold or min(3, self.min_cohort)

    def honest(self, cohort: int) -> int:
        """Partners in every sum over `cohort` partners who keep their own share of the noise to themselves."""
        return self.needed(cohort) - self.max_colluders


class EvaluationSection(Section):
    """How the model is judged."""

    every: PositiveInt = 1
    """Rounds between evaluations; the last round is always evaluated."""
    partner_holdout: Share = 0.1
    """Share of each partner's data kept out of training, for federated evaluation."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Evaluations without a better monitored score after which the run stops; 0 never stops early."""
    monitor: Literal["federated", "test"] = "federated"
    """Whose accuracy patience and the best checkpoint follow."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.patience and self.monitor == "federated" and not self.partner_holdout:
            raise contradiction(
                "expected evaluation.partner_holdout above 0 where patience follows the federated score, found 0",
                hint='set evaluation.partner_holdout or evaluation.monitor = "test"',
            )
        return self


class PerformanceSection(Section):
    """Speed only: no value here changes what is released."""

    max_physical_batch: PositiveInt = 512
    """Examples whose gradients are in memory at once."""


class SimulationSection(Section):
    """Read by tacit-sim only."""

    partners: PositiveInt = 3
    dataset: str = "digits"
    """A known set (tacit-sim data list) or a path."""
    format: str = "auto"
    input: str | None = None
    label: str | None = None
    column: str | None = None
    """Column for by-column partitions."""
    test: str | None = None
    """Path of the test data; without it a share is cut off."""
    test_share: Share = 0.2
    image_size: PositiveInt | None = None
    partition: Literal["iid", "dirichlet", "by-column", "shards"] = "iid"
    alpha: PositiveFloat = 0.5
    shards: PositiveInt = 2
    """Shards a partner."""
    user_rate: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """With `client` and noise by the server: every partner is a user whom the server draws in each round with this
    chance, independently of all others, and the mean is over so many of them as are expected."""
    dropout: Share = 0.0
    """Chance that a partner vanishes in a round, at a random stage."""
    vanishing: Annotated[int, Field(ge=0)] = 0
    """Instead of a chance: so many partners, drawn anew, vanish in every round, or in every step of a block."""
    metrics_epsilon: Annotated[float, Field(gt=0.0)] | None = None
    """What every partner's `policy.metrics_epsilon` says: the price of all evaluations; exact counts when left out."""
    seed: Annotated[int, Field(ge=0)] = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    threads: PositiveInt = 1
    """Torch threads of a process; the same in both engines, so that they add in the same order."""
    partner_cpus: PositiveFloat = 1.0
    """CPU share of a partner under the ray engine."""
    partner_gpus: Annotated[float, Field(ge=0.0)] = 0.0
    """GPU share of a partner under the ray engine."""
