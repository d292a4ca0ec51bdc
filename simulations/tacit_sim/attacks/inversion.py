"""Gradient inversion: a picture of a training example, made from an update.

Geiping et al. 2020, "Inverting Gradients" (arXiv:2003.14053v2): a picture is moved until its gradient points where the
update does. Here the directions are compared parameter by parameter, a weight on neighbouring pixels that differ and on
ink fades out, and what is nearly paper is made paper: that these are digits on paper everybody knows.

The setting is the attacker's best: the first round, one local step, and one example alone in it, of which the attacker
knows the class (it shows in the update). It succeeds on such an update in clear. It is then tried on

- the sum of three partners' updates, which is all that secure aggregation lets out. Each partner takes a step on a
  batch of 32 of 320 examples, as jobs have it; the class is the one that the sum says most about. What comes out is
  compared with every example of theirs, and the likest counts. Batches are part of this defence: of one example each,
  or of few, the sum alone would not hide everything. For that there is
- an update with DP-SGD at epsilon 8: the noise of 800 steps at that epsilon, and one step in which the example is again
  alone.

Likeness is SSIM (Wang et al. 2004, "Image quality assessment"), and chance is that of the same picture to as many
examples that nobody trained on.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tacit.job import Job
from tacit.privacy.accounting import calibrate
from tacit.tasks.image import IMAGE_CLASSIFICATION
from tacit_sim.attacks.outcome import Outcome
from tacit_sim.attacks.pupils import Class, gather_class, released

__all__ = ["Recovered", "gradient_inversion", "invert", "ssim"]

_Picture = NDArray[np.float64]

_TARGET = 0
_PARTNERS, _OWN, _BATCH = 3, 320, 32
_EPSILON, _DELTA, _RATE, _STEPS, _CLIP = 8.0, 1e-5, 128 / 6000, 800, 0.1  # those of the preset mnist-dp-sgd
_STARTS, _ITERATIONS, _PACE = 2, 400, 0.1
_SMOOTH, _INK = 0.05, 0.01
_PAPER = 0.3  # ink below this is none
_SHOWN, _HIDDEN = 0.3, 0.1  # SSIM above chance that is a success, and that is none
_WINDOW = 7


@dataclass(frozen=True, repr=False)
class Recovered:
    """What came of one update.

    Attributes:
        picture: float64 `[h, w]`, ink from 0 to 1.
        truth: the example it is likest to, of those that were trained on.
        likeness: SSIM of the two.
        chance: SSIM to the likest of as many examples that were not trained on, or the mean where it is one.
    """

    picture: _Picture
    truth: _Picture
    likeness: float
    chance: float

    @property
    def above(self) -> float:
        """Likeness above chance."""
        return self.likeness - self.chance


def gradient_inversion() -> Outcome:
    """The attack on an update in clear, on a secure sum, and on an update with DP-SGD."""
    pupils = gather_class()
    sizes = [_OWN] * _PARTNERS if len(pupils.train) >= 2 * _PARTNERS * _OWN else [len(pupils.train) // 8] * _PARTNERS
    ends = np.cumsum(sizes).tolist()
    three = [list(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
    noise = calibrate(target=_EPSILON, delta=_DELTA, sampling_rate=_RATE, steps=_STEPS)
    clear = _attack(pupils, _job(batch=1), [[_TARGET]])
    summed = _attack(pupils, _job(batch=_BATCH), three)
    private = _attack(pupils, _job(batch=1, noise=noise), [[_TARGET]])
    cases = {"in clear": clear, "sum of 3": summed, f"DP-SGD, epsilon {_EPSILON:g}": private}
    hidden = summed.above < _HIDDEN and private.above < _HIDDEN
    return Outcome(
        "gradient-inversion",
        clear.above > _SHOWN and hidden,
        f"{_words(summed)} from a secure sum of {_PARTNERS}, batches of {_BATCH}; {_words(private)} with DP-SGD at "
        f"epsilon {_EPSILON:g}, one example",
        without=f"a {pupils.name} picture from an update in clear: {_words(clear)}",
        picture=_drawing(cases),
    )


def invert(network: nn.Module, update: NDArray[np.float64], *, side: int, seed: int) -> _Picture:
    """The picture whose gradient points against `update`, float64 `[d]`: `[side, side]` with ink from 0 to 1."""
    wanted = _parts(network, -update)
    label = wanted[-1].argmin().reshape(1)  # the only class whose output the example asks to be larger
    generator = torch.Generator().manual_seed(seed)
    found = [_search(network, wanted, label, side=side, generator=generator) for _ in range(_STARTS)]
    best = min(found, key=lambda pair: pair[0])[1]
    ink = (best + 1) / 2
    return np.where(ink < _PAPER, 0.0, ink)


def ssim(one: _Picture, other: _Picture) -> float:
    """Structural similarity of two pictures `[h, w]` with values from 0 to 1, over windows of 7 x 7."""
    a, b = (sliding_window_view(p, (_WINDOW, _WINDOW)).reshape(-1, _WINDOW**2) for p in (one, other))
    mean_a, mean_b = a.mean(axis=1), b.mean(axis=1)
    both = (a * b).mean(axis=1) - mean_a * mean_b
    light = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    form = (2 * both + 0.03**2) / (a.var(axis=1) + b.var(axis=1) + 0.03**2)
    return float((light * form).mean())


def _attack(pupils: Class, job: Job, rows: list[list[int]]) -> Recovered:
    update = released(pupils, job, rows)
    pictures = pupils.train.inputs[0][:, 0].double().numpy() / 2 + 0.5
    picture = invert(pupils.network(), update, side=pictures.shape[1], seed=1)
    trained = [row for mine in rows for row in mine]
    theirs = [ssim(picture, pictures[row]) for row in trained]
    nobodys = [ssim(picture, other) for other in pictures[-max(len(trained), 100) :]]
    chance = max(nobodys) if len(trained) > 1 else float(np.mean(nobodys))
    likest = trained[int(np.argmax(theirs))]
    return Recovered(picture, pictures[likest], max(theirs), chance)


def _job(*, batch: int, noise: float | None = None) -> Job:
    private: dict[str, Any] = {
        "mechanism": "dp-sgd",
        "noise_multiplier": noise,
        "delta": _DELTA,
        "max_grad_norm": _CLIP,
    }
    return Job.model_validate(
        {
            "name": "inverted",
            "task": {"kind": "image-classification", "model": "cnn"},
            "training": {"rounds": 1, "local_steps": 1, "batch_size": batch, "learning_rate": 0.5},
            "privacy": {"mechanism": "none"} if noise is None else private,
            "aggregation": {"secure": False},
        }
    )


def _search(
    network: nn.Module, wanted: Sequence[Tensor], label: Tensor, *, side: int, generator: torch.Generator
) -> tuple[float, _Picture]:
    """One search from a start of its own: how far off the gradient is in the end, and the picture from -1 to 1."""
    picture = (0.1 * torch.randn(1, 1, side, side, generator=generator) - 0.5).requires_grad_()
    optimizer = torch.optim.Adam([picture], lr=_PACE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _ITERATIONS)
    off = 0.0
    for k in range(_ITERATIONS):
        distance = _distance(network, picture, label, wanted)
        fading = (1 - k / _ITERATIONS) ** 2
        loss = distance + fading * _SMOOTH * _edges(picture) + (fading + 0.1) * _INK * (picture + 1).mean()
        picture.grad = torch.autograd.grad(loss, picture)[0]
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            picture.clamp_(-1.0, 1.0)
        off = float(distance.detach())
    return off, picture.detach()[0, 0].double().numpy()


def _distance(network: nn.Module, picture: Tensor, label: Tensor, wanted: Sequence[Tensor]) -> Tensor:
    """One minus the cosine between gradients, on average over parameters."""
    loss = IMAGE_CLASSIFICATION.loss(network(picture), label).sum()
    gradients = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
    cosines = [
        functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) for a, b in zip(gradients, wanted, strict=True)
    ]
    return 1 - torch.stack(cosines).mean()


def _edges(picture: Tensor) -> Tensor:
    return picture.diff(dim=2).abs().mean() + picture.diff(dim=3).abs().mean()


def _parts(network: nn.Module, flat: NDArray[np.float64]) -> list[Tensor]:
    parameters = list(network.parameters())
    pieces = torch.split(torch.from_numpy(flat.astype(np.float32)), [p.numel() for p in parameters])
    return [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]


def _words(found: Recovered) -> str:
    return f"SSIM {found.likeness:.2f} (chance {found.chance:.2f})"


def _drawing(cases: dict[str, Recovered]) -> bytes:
    """A PNG: each case's example above what was made of its update."""
    figure = Figure(figsize=(2.2 * len(cases), 4.4), layout="constrained")
    axes = figure.subplots(2, len(cases))
    for column, (name, found) in enumerate(cases.items()):
        shown = {name: found.truth, f"recovered: SSIM {found.likeness:.2f}": found.picture}
        for row, (title, picture) in enumerate(shown.items()):
            axes[row, column].imshow(picture, cmap="gray_r", vmin=0.0, vmax=1.0)
            axes[row, column].set_title(title, fontsize=9)
            axes[row, column].set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()
