"""From partners' updates to the next global model, by Flower's own strategies.

A strategy is handed the mean as one reply, so that it sees under secure aggregation what it sees without. Those
that choose among single updates (Krum, Bulyan, median, trimmed mean) get one reply a partner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from numpy.typing import NDArray

from tacit.errors import JobFailed
from tacit.job import NEEDS_SINGLE_UPDATES, TrainingSection

__all__ = ["ServerOptimizer"]

_KEY = "vector"

Vector = NDArray[np.float32]


class ServerOptimizer:
    """One of Flower's strategies, with its state between rounds.

    Args:
        training: names the strategy and its options.
        start: the first global model, float32 `[d]`.
        stepwise: for `descend`: the strategy that takes the steps of `training.optimizer`.
    """

    def __init__(self, training: TrainingSection, start: Vector, *, stepwise: bool = False) -> None:
        self.single = training.server_strategy in NEEDS_SINGLE_UPDATES
        named = _strategy(training.server_strategy, training.server_options)
        self._strategy = _stepwise(training) if stepwise else named
        if isinstance(self._strategy, flower.FedAvgM):
            self._strategy.current_arrays = _record(start)

    def step(self, round_number: int, current: Vector, deltas: list[NDArray[np.floating]]) -> Vector:
        """The next global model: `deltas` is the mean alone, or every partner's where `single`.

        Raises:
            JobFailed: the strategy gave no model, or one with NaN or infinity.
        """
        if isinstance(self._strategy, _FED_OPT):
            self._strategy.current_arrays = {_KEY: current.astype(np.float64)}
        # Those that look at the change from the current model alone need more digits of it than the model keeps.
        dtype = np.float64 if isinstance(self._strategy, (*_FED_OPT, flower.FedAvgM)) else np.float32
        replies = [_reply((current + delta).astype(dtype, copy=False)) for delta in deltas]
        arrays, _ = self._strategy.aggregate_train(round_number, replies)
        if arrays is None:
            raise JobFailed("expected a model from the server strategy, found none", hint="check the partners' replies")
        vector = np.asarray(arrays[_KEY].numpy(), dtype=np.float32)
        if not np.isfinite(vector).all():
            raise JobFailed(
                "expected a finite global model, found NaN or infinity",
                hint="lower training.learning_rate or the server's step size",
            )
        return vector

    def descend(self, count: int, current: Vector, gradient: NDArray[np.float64], *, learning_rate: float) -> Vector:
        """The model after one step along `gradient`: that of torch's SGD with momentum, or of Adam.

        Args:
            count: steps of the run, this one among them, for Adam's correction of its first steps.
            current: the model, float32 `[d]`.
            gradient: float64 `[d]`.
            learning_rate: of this step.

        Raises:
            JobFailed: as `step`.
        """
        strategy = self._strategy
        if isinstance(strategy, flower.FedAvgM):
            strategy.server_learning_rate, strategy.server_opt = learning_rate, True
            strategy.current_arrays = _record(current.astype(np.float64))
        if isinstance(strategy, flower.FedAdam):
            strategy.eta = learning_rate
        return self.step(count - 1, current, [-gradient])  # Flower's FedAdam counts from the round after

    def state(self) -> dict[str, NDArray[np.floating]]:
        """What must survive a restart, as arrays by name."""
        found: dict[str, NDArray[np.floating]] = {}
        for name in ("m_t", "v_t"):
            moment = getattr(self._strategy, name, None)
            if moment:
                found[name] = np.asarray(moment[_KEY])
        if isinstance(self._strategy, flower.FedAvgM) and self._strategy.current_arrays is not None:
            found["current"] = _vector(self._strategy.current_arrays)
            if self._strategy.momentum_vector is not None:
                found["momentum"] = np.asarray(self._strategy.momentum_vector[0])
        return found

    def restore(self, state: Mapping[str, NDArray[np.floating]]) -> None:
        """The opposite of `state`."""
        for name in ("m_t", "v_t"):
            if name in state:
                setattr(self._strategy, name, {_KEY: state[name]})
        if isinstance(self._strategy, flower.FedAvgM) and "current" in state:
            self._strategy.current_arrays = _record(state["current"])
            if "momentum" in state:
                self._strategy.momentum_vector = [state["momentum"]]


_FED_OPT = (flower.FedAdam, flower.FedAdagrad, flower.FedYogi)
_WHOLE = frozenset({"num_malicious_nodes", "num_nodes_to_select"})
_STRATEGIES: dict[str, Callable[..., flower.FedAvg]] = {
    "bulyan": flower.Bulyan,
    "fedadagrad": flower.FedAdagrad,
    "fedadam": flower.FedAdam,
    "fedavg": flower.FedAvg,
    "fedavgm": flower.FedAvgM,
    "fedmedian": flower.FedMedian,
    "fedtrimmedavg": flower.FedTrimmedAvg,
    "fedyogi": flower.FedYogi,
    "krum": flower.Krum,
    "multikrum": flower.MultiKrum,
}


def _strategy(name: str, options: Mapping[str, float]) -> flower.FedAvg:
    return _STRATEGIES[name](**{key: int(value) if key in _WHOLE else value for key, value in options.items()})


def _stepwise(training: TrainingSection) -> flower.FedAvg:
    """Flower's strategies of the same formulas, whose "update" is one gradient."""
    match training.optimizer:
        case "sgd":
            return flower.FedAvgM(server_learning_rate=training.learning_rate, server_momentum=training.momentum)
        case "adam":
            return flower.FedAdam(eta=training.learning_rate, beta_1=0.9, beta_2=0.999, tau=1e-8)


def _record(vector: NDArray[np.floating]) -> ArrayRecord:
    return ArrayRecord({_KEY: Array(np.ascontiguousarray(vector))})


def _vector(record: ArrayRecord) -> NDArray[np.floating]:
    return np.asarray(record[_KEY].numpy())


def _reply(vector: NDArray[np.floating]) -> Message:
    content = RecordDict({"arrays": _record(vector), "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, 0, "train")
