"""Flower 1.41's SecAgg+ in memory: one node, run by Flower's own client modifier.

Source: flwr 1.41.0, `flwr.client.mod.secaggplus_mod`, called as a SuperNode calls it, so that each of its checks
stands. The protocol: Bell et al. 2020 (ePrint 2020/704). The server's side is in `workflow`.

Messages pass through the caller's hands as plain values, so an attacker can replace any of them between two stages.
Flower draws keys and seeds from the operating system and rounds with numpy's global generator; neither takes a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.app.message_type import MessageType
from flwr.client.mod import secaggplus_mod
from flwr.common import (
    Code,
    FitIns,
    FitRes,
    Scalar,
    Status,
    bytes_to_ndarray,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, RECORD_KEY_STATE, Key, Stage
from flwr.compat.common import recorddict_compat
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from tacit.errors import JobFailed
from tacit_sim.engine import quiet

__all__ = ["Keys", "Masked", "Node", "Terms", "Train", "Vector", "held"]

Vector = NDArray[np.floating[Any]]
Train = Callable[[Vector, Mapping[str, Scalar]], Vector]

_RUN_ID = 1
_SERVER = 0


@dataclass(frozen=True)
class Terms:
    """What Flower's server tells each node at setup. The numbers are SecAggPlusWorkflow's defaults.

    Args:
        cohort: nodes in the round.
        threshold: shares that rebuild a secret.
        clipping_range: entries of an update are clipped to plus and minus this.
        target_range: steps that the clipped range is cut into.
        modulus: size of the ring.
        max_weight: examples that count as a weight of one.
    """

    cohort: int
    threshold: int
    clipping_range: float = 8.0
    target_range: int = 1 << 22
    modulus: int = 1 << 32
    max_weight: float = 1000.0

    @property
    def step(self) -> float:
        """Width of one quantisation step."""
        return 2 * self.clipping_range / self.target_range


@dataclass(frozen=True)
class Keys:
    """One node's public keys of a round, PEM, SECP384R1: `mask` for pairwise masks, `seal` for shares in transit."""

    mask: bytes
    seal: bytes


@dataclass(frozen=True)
class Masked:
    """One node's answer to the third stage: everything that the server sees of it.

    Args:
        arrays: int64 in the ring, the weight first, shape (1,), then the update.
        examples: the node's number of examples.
        metrics: what its training reported.
    """

    arrays: list[NDArray[np.int64]]
    examples: int
    metrics: Mapping[str, Scalar]


class Node:
    """One node under Flower's `secaggplus_mod`, with the context that a SuperNode would keep for it.

    Args:
        number: the node's id.
        train: maps the model it is sent and the server's configuration to the update it returns.
        examples: its number of examples, which Flower sends in the clear.
    """

    def __init__(self, number: int, train: Train, *, examples: int = 1000) -> None:
        quiet()
        # Flower stamps every new message with these; a SuperNode gets them from its launcher.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = _RUN_ID, _SERVER, _SERVER
        self.number = number
        self._train = train
        self._examples = examples
        self._context = Context(run_id=_RUN_ID, node_id=number, node_config={}, state=RecordDict(), run_config={})

    @property
    def mask_secret(self) -> bytes:
        """Private key of the pairwise masks, PEM, as its context keeps it: to check an attack, never a message."""
        return _bytes(self._context.state.config_records[RECORD_KEY_STATE]["sk1"])

    def setup(self, terms: Terms) -> Keys:
        """Stage 0: take the round's numbers, make two pairs of keys."""
        config = ConfigRecord(
            {
                Key.STAGE: Stage.SETUP,
                Key.SAMPLE_NUMBER: terms.cohort,
                Key.SHARE_NUMBER: terms.cohort,
                Key.THRESHOLD: terms.threshold,
                Key.CLIPPING_RANGE: terms.clipping_range,
                Key.TARGET_RANGE: terms.target_range,
                Key.MOD_RANGE: terms.modulus,
                Key.MAX_WEIGHT: terms.max_weight,
            }
        )
        answer = self._ask(config).config_records[RECORD_KEY_CONFIGS]
        return Keys(mask=_bytes(answer[Key.PUBLIC_KEY_1]), seal=_bytes(answer[Key.PUBLIC_KEY_2]))

    def share(self, keys: Mapping[int, Keys]) -> dict[int, bytes]:
        """Stage 1: cut both secrets into shares. Returns for each receiver its sealed shares."""
        config = ConfigRecord({str(number): [pair.mask, pair.seal] for number, pair in keys.items()})
        config[Key.STAGE] = Stage.SHARE_KEYS
        answer = self._ask(config).config_records[RECORD_KEY_CONFIGS]
        receivers, sealed = _integers(answer[Key.DESTINATION_LIST]), _list_of_bytes(answer[Key.CIPHERTEXT_LIST])
        return dict(zip(receivers, sealed, strict=True))

    def mask(self, sealed: Mapping[int, bytes], *, model: Vector, config: Mapping[str, Scalar] | None = None) -> Masked:
        """Stage 2: open the shares of the senders in `sealed`, train from `model`, mask the update."""
        record = ConfigRecord(
            {
                Key.STAGE: Stage.COLLECT_MASKED_VECTORS,
                Key.CIPHERTEXT_LIST: list(sealed.values()),
                Key.SOURCE_LIST: list(sealed),
            }
        )
        fit = FitIns(ndarrays_to_parameters([model]), dict(config or {}))
        content = self._ask(record, fit=fit)
        told = recorddict_compat.recorddict_to_fitres(content, keep_input=True)
        arrays = _list_of_bytes(content.config_records[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS])
        return Masked([bytes_to_ndarray(array) for array in arrays], told.num_examples, told.metrics)

    def unmask(self, *, active: Sequence[int], dead: Sequence[int]) -> list[tuple[int, bytes]]:
        """Stage 3: (owner, share) of the seed of each node in `active`, then of the mask key of each in `dead`."""
        config = ConfigRecord(
            {
                Key.STAGE: Stage.UNMASK,
                Key.ACTIVE_NODE_ID_LIST: list(active),
                Key.DEAD_NODE_ID_LIST: list(dead),
            }
        )
        answer = self._ask(config).config_records[RECORD_KEY_CONFIGS]
        return list(zip(_integers(answer[Key.NODE_ID_LIST]), _list_of_bytes(answer[Key.SHARE_LIST]), strict=True))

    def _ask(self, config: ConfigRecord, *, fit: FitIns | None = None) -> RecordDict:
        content = RecordDict() if fit is None else recorddict_compat.fitins_to_recorddict(fit, keep_input=True)
        content.config_records[RECORD_KEY_CONFIGS] = config
        message = Message(content, self.number, MessageType.TRAIN)
        return secaggplus_mod(message, self._context, self._fit).content

    def _fit(self, message: Message, context: Context) -> Message:
        told = recorddict_compat.recorddict_to_fitins(message.content, keep_input=True)
        (model,) = parameters_to_ndarrays(told.parameters)
        update = self._train(model, told.config)
        parameters = ndarrays_to_parameters([update])
        result = FitRes(Status(Code.OK, ""), parameters, self._examples, {"loss": float(np.square(update).mean())})
        return Message(recorddict_compat.fitres_to_recorddict(result, keep_input=False), reply_to=message)


def held(update: Vector) -> Train:
    """A training that returns `update` whatever it is sent."""
    return lambda model, config: update


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise JobFailed(f"expected bytes from Flower, found {type(value).__name__}", hint="install flwr 1.41")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise JobFailed(f"expected a list from Flower, found {type(value).__name__}", hint="install flwr 1.41")
    return value


def _integers(value: object) -> list[int]:
    return [item for item in _list(value) if isinstance(item, int)]


def _list_of_bytes(value: object) -> list[bytes]:
    return [_bytes(item) for item in _list(value)]
