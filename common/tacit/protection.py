"""What a job promises to the people in the data: the section `[privacy]`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tacit.check import contradiction
from tacit.sections import PositiveFloat, Section

__all__ = ["LARGEST_NORM", "LEAST_NORM", "PrivacySection"]

LEAST_NORM, LARGEST_NORM = 1e-6, 1e6
"""The range of a clip norm."""
_OF_NOISE = ("epsilon", "noise_multiplier", "delta", "max_grad_norm")


class PrivacySection(Section):
    """What is promised to the people in the data. The mechanism is never assumed: it must be named."""

    mechanism: Literal["none", "dp-sgd", "distributed-dp-sgd", "client"]
    epsilon: PositiveFloat | None = None
    """Target over the whole run; each partner calibrates its own noise to it."""
    noise_multiplier: Annotated[float, Field(ge=0.2)] | None = None
    """Instead of epsilon: standard deviation of the noise over `max_grad_norm`. Less than 0.2 protects nobody."""
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    max_grad_norm: Annotated[float, Field(ge=LEAST_NORM, le=LARGEST_NORM)] | None = None
    """L2 bound of one example's gradient. Far below or above, the noise would not be the one that is accounted for:
    floats of 32 bits would round it off."""
    max_update_norm: Annotated[float, Field(ge=LEAST_NORM, le=LARGEST_NORM)] | None = None
    """With `client`: L2 bound of a partner's whole update, in place of `aggregation.max_update_norm`."""
    noise_by: Literal["partners", "server"] = "partners"
    """With `client`: who adds the noise. Partners: each a share of it, under the masks of secure aggregation. The
    server: all of it to the sum; then the guarantee trusts the server."""
    clip_quantile: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """With `client`: the share of updates that the bound is to leave as they are; the bound follows it, beginning with
    `max_update_norm`. Left out, the bound stays."""
    clip_rate: Annotated[float, Field(gt=0.0, le=2.0)] | None = None
    """How fast the bound follows `clip_quantile`: in a round it changes by at most this factor's exponential; 0.2 when
    left out."""

    @property
    def per_example(self) -> bool:
        """Whether partners take gradients example by example."""
        return self.mechanism in ("dp-sgd", "distributed-dp-sgd")

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [key for key in _OF_NOISE if getattr(self, key) is not None]
        if self.mechanism == "none":
            if given:
                raise contradiction(
                    f"expected no privacy.{given[0]} with mechanism none, which promises nothing, found it",
                    hint=f"remove privacy.{given[0]} or choose mechanism dp-sgd",
                )
            self._check_client()
            return self
        if self.epsilon is not None and self.noise_multiplier is not None:
            raise contradiction(
                "expected privacy.epsilon or privacy.noise_multiplier, found both",
                hint="remove one: either fixes the other",
            )
        if self.epsilon is None and self.noise_multiplier is None:
            raise contradiction(
                "expected privacy.epsilon or privacy.noise_multiplier, found neither", hint="add privacy.epsilon"
            )
        for key in ("delta", "max_update_norm" if self.mechanism == "client" else "max_grad_norm"):
            if getattr(self, key) is None:
                raise contradiction(
                    f"expected privacy.{key} with {self.mechanism}, found nothing", hint=f"add privacy.{key}"
                )
        self._check_client()
        return self

    def _check_client(self) -> None:
        """Keys of `client` stand with it alone, and it takes none of the others'."""
        if self.mechanism == "client":
            if self.max_grad_norm is not None:
                raise contradiction(
                    "expected no privacy.max_grad_norm with client, found it: the whole update is clipped, not each "
                    "example's gradient",
                    hint="remove privacy.max_grad_norm; the bound is privacy.max_update_norm",
                )
            if self.clip_rate is not None and self.clip_quantile is None:
                raise contradiction(
                    "expected privacy.clip_quantile beside privacy.clip_rate, found none",
                    hint="add privacy.clip_quantile, or remove privacy.clip_rate",
                )
            return
        alone = [key for key in ("max_update_norm", "clip_quantile", "clip_rate") if getattr(self, key) is not None]
        alone += ["noise_by"] if self.noise_by != "partners" else []
        if alone:
            raise contradiction(
                f"expected no privacy.{alone[0]} with {self.mechanism}, found it: only client bounds a partner's whole "
                "update",
                hint=f'remove privacy.{alone[0]}, or set privacy.mechanism = "client"',
            )
