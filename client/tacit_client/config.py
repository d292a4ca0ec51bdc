"""What a partner decides, as it stands in `site.toml`: strict, and every key with its meaning."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tacit.check import contradiction
from tacit.data.files import FORMATS
from tacit.errors import BadInput
from tacit.link.names import check_address, check_name

__all__ = ["DataSection", "PolicySection", "ServerSection", "SiteConfig"]

PositiveInt = Annotated[int, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]
Place = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]+$")]  # of a file: what the system takes


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ServerSection(_Section):
    """Who coordinates."""

    address: str
    """HOST:PORT of the gateway."""

    @field_validator("address")
    @classmethod
    def _check(cls, address: str) -> str:
        return _checked(lambda: check_address(address), address, key="server.address")


class DataSection(_Section):
    """Where the examples are; the arguments of `tacit.data.files.read`."""

    path: Place | None = None
    """A file or folder; relative paths begin at the partner's folder."""
    format: Literal[FORMATS] = "auto"  # type: ignore[valid-type]  # mypy takes no tuple of constants here
    input: Text | None = None
    """Column or columns, or the array, to learn from."""
    label: Text | None = None
    """Column or array of labels."""
    labels: tuple[Text, ...] = ()
    """Classes that a job has to know, whichever of them are here. Left out: those that are here, so that a server that
    leaves one out of a job learns from the refusal that it is."""
    image_size: Annotated[int, Field(gt=0, le=4096)] | None = None
    """Height and width in pixels that images are resized to."""
    unit: Text | None = None
    """The column that names the person whose rows are protected together; left out, each row is protected by itself."""
    max_per_unit: PositiveInt = 1
    """Rows of one person in a step of training, drawn anew for each; only with `unit`."""
    drop: tuple[Text, ...] = ()
    """Columns that never leave the reader."""
    pseudonymise: tuple[Text, ...] = ()
    """Columns of which only a keyed hash of each value leaves the reader."""
    key: Place | None = None
    """The key file of sealed data; left out, keys/seal.key where there is one."""
    passphrase_file: Place | None = None
    """A file with the passphrase of sealed data, instead of a key."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "max_per_unit" in self.model_fields_set and self.unit is None:
            raise contradiction(
                "expected data.unit beside data.max_per_unit, found none",
                hint="name the column of persons as data.unit, or remove data.max_per_unit",
            )
        if self.key is not None and self.passphrase_file is not None:
            raise contradiction(
                "expected one way to open sealed data, found data.key and data.passphrase_file", hint="remove one"
            )
        self._check_columns()
        return self

    def _check_columns(self) -> None:
        """No column is used in two ways that do not go together."""
        inputs = {self.input, *(self.input or "").split(",")}
        learnt = {name.strip() for name in (*inputs, self.label) if name}
        _apart(learnt, {self.unit}, what="data.input or data.label", other="data.unit")
        _apart(learnt | {self.unit}, set(self.drop), what="what training reads", other="data.drop")
        _apart(learnt, set(self.pseudonymise), what="data.input or data.label", other="data.pseudonymise")
        _apart(set(self.drop), set(self.pseudonymise), what="data.drop", other="data.pseudonymise")


def _apart(one: Set[str | None], two: Set[str | None], *, what: str, other: str) -> None:
    for name in sorted(name for name in one & two if name is not None):
        raise contradiction(
            f"expected each column in {what} or in {other}, found {name!r} in both", hint="take it out of one"
        )


class PolicySection(_Section):
    """What the partner insists on, whatever a job asks for."""

    epsilon_limit: Annotated[float, Field(gt=0.0)] = 8.0
    """Epsilon at `delta` of all that was ever released about the data, over all jobs."""
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-5
    """At which `epsilon_limit` is counted; a job may promise the same or a smaller one."""
    min_cohort: PositiveInt = 3
    """Accepted partners, this one among them, below which it takes no part."""
    require_secure_aggregation: bool = True
    """Refuse jobs in which the server would see this partner's own update."""
    allow_unprotected: bool = False
    """Take part in jobs of mechanism `none`. They are not counted against the limit, as nothing bounds them."""
    trust_server_noise: bool = False
    """Take part in jobs of mechanism `client` whose noise the server adds: their guarantee does not hold against it."""
    colluders: Annotated[int, Field(ge=0)] = 1
    """Partners that may work together with the server without harm to this one. Where the partners' shares of one noise
    protect it, jobs whose `aggregation.max_colluders` is smaller are refused."""
    trust_new_peers: bool = False
    """Accept every peer that the server names; then a lying server is not covered."""
    allowed_tasks: tuple[Text, ...] = ("image-classification", "text-classification")
    """Kinds of task that it takes part in."""
    vocabularies: tuple[Text, ...] = ()
    """Paths of files that a job may name as its vocabulary; no other file is opened for a job."""
    max_holdout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.3
    """Share of the examples that a job may keep out of training, at most; the same examples in every job. They are
    judged as often as the job plans, and exactly where `metrics_epsilon` is left out. 0.0 refuses jobs that judge any.
    """
    max_exact_evaluations: Annotated[int, Field(ge=0)] = 10_000
    """Evaluations with exact counts over the life of the data, in all jobs; 0 refuses them. Those with a price are
    counted by the ledger's epsilon instead."""
    metrics_epsilon: Annotated[float, Field(gt=0.0)] | None = None
    """Epsilon of all evaluations that a job plans: noise on every count, charged like training. Left out: exact counts,
    which no limit counts."""
    max_rounds_per_day: PositiveInt = 1000
    """Rounds of training in any 24 hours."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.require_secure_aggregation and self.min_cohort < 3:
            raise contradiction(
                f"expected policy.min_cohort of at least 3 with require_secure_aggregation, found {self.min_cohort}",
                hint="raise policy.min_cohort: of a sum of two each knows the other's part",
            )
        if self.metrics_epsilon is not None and self.metrics_epsilon > self.epsilon_limit:
            raise contradiction(
                f"expected policy.metrics_epsilon of at most policy.epsilon_limit {self.epsilon_limit:g}, found "
                f"{self.metrics_epsilon:g}",
                hint="lower policy.metrics_epsilon: evaluations are counted against the limit",
            )
        if not self.allowed_tasks:
            raise contradiction(
                "expected a kind of task in policy.allowed_tasks, found none", hint="name one, or stop this process"
            )
        return self


class SiteConfig(_Section):
    """`site.toml`."""

    name: str
    """The partner, as it was invited."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d{1,3})?)$")] = "auto"
    threads: Annotated[int, Field(gt=0, le=1024)] | None = None
    """Torch threads of the process; torch's own choice when left out."""
    max_physical_batch: PositiveInt | None = None
    """Examples whose gradients are in memory at once; the job's wish when left out. Changes no result."""
    ledger: Place | None = None
    """A ledger that this partner's other federations use too; relative to the partner's folder, ledger.db if left out.
    Its key lies beside it, in a file of the same name and `.key`."""
    server: ServerSection
    data: DataSection = DataSection()
    policy: PolicySection = PolicySection()

    @field_validator("name")
    @classmethod
    def _check(cls, name: str) -> str:
        return _checked(lambda: check_name(name), name, key="name")


def _checked(check: Callable[[], object], value: str, *, key: str) -> str:
    try:
        check()
    except BadInput as error:
        raise contradiction(f"{error.message} at {key}", hint=error.hint) from None
    return value
