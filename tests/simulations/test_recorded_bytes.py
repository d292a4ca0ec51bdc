"""What the server gets, byte by byte: with secure aggregation nothing exact about a partner's data is in it.

A whole run is recorded at the grid, as Flower would send it, and searched for each partner's example count, its
evaluation sums, its update as floats and as the integers that were encoded. The same search over the same run with
`secure = false` finds every one of them: it can see what it looks for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from flwr.common.serde import recorddict_to_proto

from tacit.job import Job
from tacit.quantize import Ring
from tacit_client.train import Trainer
from tacit_sim.grid import InlineGrid
from tacit_sim.simulation import simulate

PARTNERS, ROUNDS = 4, 2


@dataclass
class _Record:
    """Bytes that the server got, and what was planted: by what it is, as bytes."""

    heard: list[bytes] = field(default_factory=list)
    planted: dict[str, list[bytes]] = field(default_factory=dict)

    def plant(self, what: str, *values: bytes) -> None:
        self.planted.setdefault(what, []).extend(values)

    def found(self) -> dict[str, int]:
        everything = b"\0\0".join(self.heard)
        return {what: sum(value in everything for value in values) for what, values in self.planted.items()}


def _job(make_job, *overrides: str) -> Job:
    return make_job(
        "privacy.mechanism=none",
        "aggregation.weighting=examples",
        "aggregation.max_weight=5000",
        "evaluation.partner_holdout=0.2",
        f"simulation.partners={PARTNERS}",
        "simulation.partition=dirichlet",
        "simulation.alpha=2.0",
        f"training.rounds={ROUNDS}",
        *overrides,
        without=("privacy.noise_multiplier", "privacy.delta", "privacy.max_grad_norm"),
    )


def _recorded(job: Job, out, monkeypatch: pytest.MonkeyPatch) -> _Record:
    record = _Record()
    pull, encode, evaluate, train = InlineGrid.pull_messages, Ring.encode, Trainer.evaluate, Trainer.train

    def recorded_pull(self: InlineGrid, ids: Any) -> Any:
        for message in pull(self, ids):
            record.heard.append(recorddict_to_proto(message.content).SerializeToString())
            yield message

    def planted_encode(self: Ring, update: Any, **settings: Any) -> Any:
        encoded, clipped = encode(self, update, **settings)
        record.plant("update as integers", *(encoded[i : i + 4].tobytes() for i in range(0, len(encoded) - 4, 997)))
        return encoded, clipped

    def planted_evaluate(self: Trainer, *args: Any, **settings: Any) -> Any:
        counters = evaluate(self, *args, **settings)
        record.plant("evaluation sums", counters.to_vector().tobytes(), np.int64(counters.loss_sum).tobytes())
        return counters

    def planted_train(self: Trainer, vector: Any, shard: Any, **settings: Any) -> Any:
        delta = train(self, vector, shard, **settings)
        record.plant("example count", np.int64(len(shard)).tobytes())
        return delta

    monkeypatch.setattr(InlineGrid, "pull_messages", recorded_pull)
    monkeypatch.setattr(Ring, "encode", planted_encode)
    monkeypatch.setattr(Trainer, "evaluate", planted_evaluate)
    monkeypatch.setattr(Trainer, "train", planted_train)
    result = simulate(job, engine="inline", data=None, out=out)
    assert result["rounds_completed"] == ROUNDS
    return record


def test_the_server_hears_nothing_exact_of_a_partner(make_job, tmp_path, monkeypatch):
    record = _recorded(_job(make_job, "aggregation.secure=true"), tmp_path / "out", monkeypatch)
    assert len(record.heard) == PARTNERS * (2 + 2 * 5 * ROUNDS)  # hello, statement; ten stages a round
    assert {what: len(values) > PARTNERS for what, values in record.planted.items()} == {
        "example count": True,
        "evaluation sums": True,
        "update as integers": True,
    }
    assert record.found() == {"example count": 0, "evaluation sums": 0, "update as integers": 0}
    told = b"\0".join(record.heard)
    for word in (b"num-examples", b"loss", b"accuracy", b"seconds"):
        assert word not in told


def test_the_same_search_finds_all_of_it_in_clear(make_job, tmp_path, monkeypatch):
    record = _recorded(_job(make_job, "aggregation.secure=false"), tmp_path / "out", monkeypatch)
    assert len(record.heard) == PARTNERS * (2 + 2 * ROUNDS)
    assert record.found() == {what: len(values) for what, values in record.planted.items()}


def test_secure_or_not_the_model_is_the_same_bit_for_bit(make_job, tmp_path):
    """The protocol adds nothing: what the server does with the sum, it does with the same integers in clear."""
    models = []
    for secure in ("true", "false"):
        simulate(_job(make_job, f"aggregation.secure={secure}"), engine="inline", data=None, out=tmp_path / secure)
        text = (tmp_path / secure / "model.safetensors").read_bytes()
        models.append(text[8 + int.from_bytes(text[:8], "little") :])  # the header names the job's hash
    assert models[0] == models[1]
    assert len(models[0]) > 1000
