"""What attacks on learning are tried on: pictures of digits, the product's network for them, its partners and trainer.

The pictures are those of MNIST where a data folder has them, and else the smaller ones that scikit-learn has on board.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit import vector as vectors
from tacit.job import Job
from tacit.privacy.randomness import Randomness
from tacit.quantize import Ring
from tacit.secagg.keys import Secret
from tacit.tasks.image import IMAGE_CLASSIFICATION
from tacit.tasks.table import parse_options
from tacit.tasks.task import Encoded
from tacit.wire import Ask
from tacit_client.book import MEMORY
from tacit_client.ledger import DataSet, Ledger
from tacit_client.masking import Standing
from tacit_client.partner import Site, take_part
from tacit_client.train import Shard, Trainer
from tacit_sim.known import load

__all__ = ["Class", "gather_class", "losses", "released"]

_SEED = 20


@dataclass(frozen=True, repr=False)
class Class:
    """Digits to learn from, and the network's first weights.

    Attributes:
        name: of the data set.
        train: the encoded training examples.
        test: the encoded test examples.
        options: of the network.
        start: its first weights, float32 `[d]`.
    """

    name: str
    train: Encoded
    test: Encoded
    options: object
    start: NDArray[np.float32]

    def network(self) -> nn.Module:
        """The network with its first weights."""
        network = IMAGE_CLASSIFICATION.models["cnn"].build(self.options)
        vectors.load(network, self.start)
        return network

    def trainer(self, *, private: bool) -> Trainer:
        """A partner's trainer of that network."""
        return Trainer(
            self.network(),
            task=IMAGE_CLASSIFICATION,
            private=private,
            device=torch.device("cpu"),
            max_physical_batch=128,
        )


def gather_class() -> Class:
    """The digits at hand. Raises BadInput where a data folder is named and has no MNIST."""
    name = "mnist" if os.environ.get("TACIT_DATA") else "digits"
    train, test = load(name, data=None)
    options = parse_options(IMAGE_CLASSIFICATION, "cnn", IMAGE_CLASSIFICATION.infer(train))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        start = vectors.flatten(IMAGE_CLASSIFICATION.models["cnn"].build(options))
    encode = IMAGE_CLASSIFICATION.encode
    return Class(name, encode(options, train), encode(options, test), options, start)


def released(pupils: Class, job: Job, rows: list[list[int]]) -> NDArray[np.float64]:
    """What the server gets in round 1 of `job` from partners with these rows of the training examples: float64 `[d]`.

    Each partner's update comes from its own code, `take_part`, to the integers that it would mask; their sum modulo
    2^32 is what secure aggregation lets out, and of one partner what it sends in clear.

    Returns:
        The mean of the updates.
    """
    trainer = pupils.trainer(private=job.privacy.mechanism != "none")
    total = np.zeros(len(pupils.start), dtype=np.uint32)
    for i, mine in enumerate(rows):
        ledger = Ledger(MEMORY, partner=f"partner-{i}", key=Secret(bytes(32)), dataset=DataSet("0" * 64), durable=False)
        shard = Shard(pupils.train, torch.tensor(mine))
        site = Site(f"partner-{i}", shard, Shard(pupils.train, torch.tensor(mine[:0])), ledger, Randomness(i))
        ask = Ask(job, "run", 1, 1, len(rows), pupils.start)
        _, update = take_part(ask, site, trainer, Standing())
        total += update.vector.update
    ring = Ring(norm=job.aggregation.max_update_norm, partners=len(rows))
    return ring.decode(total, weight=float(len(rows)))


def losses(network: nn.Module, examples: Encoded) -> NDArray[np.float64]:
    """The loss of each example, float64 `[n]`."""
    network.eval()
    with torch.no_grad():
        found: Tensor = IMAGE_CLASSIFICATION.loss(network(*examples.inputs), examples.targets)
    return found.double().numpy()
