"""The job: what the operator proposes and every party agrees to, read from TOML.

A job is frozen, strict and hashed. The hash covers what a partner agrees to; the sections `[performance]` and
`[simulation]` change how fast or where a job runs, not what is released, and stay outside it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from tacit.check import contradiction, parse
from tacit.errors import BadInput
from tacit.protection import PrivacySection
from tacit.sections import (
    NEEDS_SINGLE_UPDATES,
    SERVER_OPTIONS,
    AggregationSection,
    EvaluationSection,
    PerformanceSection,
    Section,
    SimulationSection,
    TaskSection,
    TrainingSection,
)
from tacit.users import check_users, check_whole

__all__ = [
    "MOST_DRAWN",
    "NEEDS_SINGLE_UPDATES",
    "SERVER_OPTIONS",
    "AggregationSection",
    "EvaluationSection",
    "Job",
    "PerformanceSection",
    "PrivacySection",
    "SimulationSection",
    "TaskSection",
    "TrainingSection",
    "load",
    "override",
]


MOST_DRAWN = 2**14
"""The largest expected batch of a private step: twice as many are never drawn, as `tacit.privacy.grid` takes it."""


class Job(Section):
    """A whole job."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    task: TaskSection
    training: TrainingSection
    privacy: PrivacySection
    aggregation: AggregationSection = AggregationSection()
    evaluation: EvaluationSection = EvaluationSection()
    performance: PerformanceSection = PerformanceSection()
    simulation: SimulationSection = SimulationSection()

    @model_validator(mode="after")
    def _check(self) -> Self:
        strategy = self.training.server_strategy
        if self.aggregation.secure and strategy in NEEDS_SINGLE_UPDATES:
            raise contradiction(
                f"expected a strategy that works on the sum with aggregation.secure = true, found {strategy}, "
                "which needs every partner's own update",
                hint="use fedavg, fedavgm, fedadam, fedyogi or fedadagrad, or set aggregation.secure = false",
            )
        exposed = self.privacy.mechanism != "none" and not self.aggregation.secure
        if exposed and self.aggregation.weighting == "examples":
            raise contradiction(
                "expected aggregation.weighting = uniform with a private mechanism and aggregation.secure = false, "
                "found examples",
                hint='set aggregation.weighting = "uniform", or aggregation.secure = true: counts would leave in clear',
            )
        if self.privacy.mechanism in ("dp-sgd", "distributed-dp-sgd") and self.training.batch_size > MOST_DRAWN:
            raise contradiction(
                f"expected training.batch_size of at most {MOST_DRAWN} with {self.privacy.mechanism}, found "
                f"{self.training.batch_size}: of more examples float64 could not add up the gradients as exactly as "
                "the noise takes for granted",
                hint="lower training.batch_size",
            )
        return self

    @model_validator(mode="after")
    def _check_users(self) -> Self:
        if self.privacy.mechanism == "client":
            check_whole(self.privacy, self.training, self.aggregation)
        if self.simulation.user_rate is not None:
            check_users(self.simulation, self.privacy, self.aggregation)
        return self

    @property
    def shares_noise(self) -> bool:
        """Whether the noise is the sum of the partners' shares, which protect nothing one by one."""
        by_partners = self.privacy.mechanism == "client" and self.privacy.noise_by == "partners"
        return by_partners or self.privacy.mechanism == "distributed-dp-sgd"

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.shares_noise:
            self._check_sum()
        if self.privacy.mechanism == "distributed-dp-sgd":
            self._check_steps()
        return self

    def _check_sum(self) -> None:
        """What a guarantee that rests on the sum of all partners' noise needs."""
        name, aggregation = self.privacy.mechanism, self.aggregation
        if not aggregation.secure:
            raise contradiction(
                f"expected aggregation.secure = true with {name}, found false: every partner adds a share of the noise "
                "only, so the server would see each partner's sum without the guarantee of privacy.epsilon",
                hint="set aggregation.secure = true, or "
                + (
                    'privacy.noise_by = "server", which trusts the server with every update'
                    if name == "client"
                    else "use dp-sgd, where every partner adds the whole noise"
                ),
            )
        least = min(aggregation.honest(n) for n in _cohorts(aggregation))
        if least < 1:
            raise contradiction(
                f"expected aggregation.max_colluders below the threshold {least + aggregation.max_colluders}, found "
                f"{aggregation.max_colluders}: there would be no noise that the colluders do not know",
                hint="lower aggregation.max_colluders, or raise aggregation.threshold and min_cohort",
            )
        for n in _cohorts(aggregation):
            if 2 * aggregation.needed(n) - n <= aggregation.max_colluders:
                raise contradiction(
                    f"expected aggregation.max_colluders below {2 * aggregation.needed(n) - n} in a cohort of {n} with "
                    f"threshold {aggregation.needed(n)}, found {aggregation.max_colluders}: the server and they could "
                    "have two lists of survivors signed, and see a sum with too little noise",
                    hint="lower aggregation.max_colluders, or raise aggregation.threshold",
                )
        if aggregation.weighting != "uniform":
            raise contradiction(
                f"expected aggregation.weighting = uniform with {name}, found {aggregation.weighting}",
                hint="remove aggregation.weighting: the shares of the noise are equal",
            )

    def _check_steps(self) -> None:
        """What one step on the data of all partners together needs."""
        training, delta = self.training, self.privacy.delta
        if training.population is None:
            raise contradiction(
                "expected training.population with distributed-dp-sgd, found nothing: without it every partner would "
                "sample at a rate of its own, and no one privacy.epsilon would hold for all",
                hint="set training.population to the examples of all partners together, in round numbers",
            )
        if training.batch_size > training.population:
            raise contradiction(
                f"expected training.batch_size of at most training.population {training.population}, found "
                f"{training.batch_size}",
                hint="lower training.batch_size",
            )
        if delta is not None and delta >= 1 / training.population:
            raise contradiction(
                f"expected privacy.delta below 1/training.population = {1 / training.population:.3g}, found {delta:g}",
                hint="lower privacy.delta: at 1/N it would allow to publish one of them outright",
            )
        if training.server_strategy != "fedavg":
            raise contradiction(
                f"expected no training.server_strategy with distributed-dp-sgd, found {training.server_strategy}: the "
                "server takes the steps of training.optimizer itself",
                hint="remove training.server_strategy and choose training.optimizer",
            )

    def agreed(self) -> dict[str, Any]:
        """The sections that a partner agrees to, as plain JSON values."""
        return self.model_dump(mode="json", exclude={"performance", "simulation"})

    def hash(self) -> str:
        """SHA-256 of the canonical JSON of `agreed()`, in hex."""
        canonical = json.dumps(self.agreed(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


def _cohorts(aggregation: AggregationSection) -> Sequence[int]:
    """The sizes that a cohort can have: from the least to the one asked for, or as far as it makes a difference.

    Two thirds rounded down are fewer than two thirds in two cohorts of three: a larger cohort may be the weaker one.
    """
    least = aggregation.min_cohort
    return range(least, (aggregation.cohort or max(least + 2, 3 * (aggregation.threshold or 1))) + 1)


def load(path: Path, *, overrides: Sequence[str] = ()) -> Job:
    """The job in the TOML file at `path`, with `a.b=c` overrides applied.

    Raises:
        BadInput: unreadable file, bad TOML, unknown key, wrong type, impossible combination.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"expected a job file at {path}, found none: {error.strerror}", hint="check the path") from None
    except (ValueError, RecursionError) as error:  # bad TOML and bad UTF-8; numbers and brackets without end
        raise BadInput(f"expected TOML in {path}, found {error}", hint="mend that line") from None
    return parse(Job, override(raw, overrides), where=path.name)


def override(raw: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `raw` with each `a.b=c` set; `c` is read as TOML and, failing that, as a text."""
    result: dict[str, Any] = copy.deepcopy(dict(raw))
    for text in overrides:
        key, equals, value = text.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path):
            raise BadInput(f"expected --set KEY=VALUE, found {text}", hint="write for instance --set training.rounds=5")
        table = result
        for part in path[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise BadInput(f"expected a section at {part} in --set {text}, found a value", hint="check the key")
        table[path[-1]] = _toml_value(value.strip())
    return result


def _toml_value(text: str) -> Any:
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return found["value"] if len(found) == 1 else text  # a text of several lines may read as several keys
