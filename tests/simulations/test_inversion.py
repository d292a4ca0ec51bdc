"""Gradient inversion: its measure, its search, and that the product's defences are what stops it."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tacit.tasks.image import IMAGE_CLASSIFICATION
from tacit_sim.attacks import inversion, report
from tacit_sim.attacks.inversion import Recovered, gradient_inversion, invert, ssim
from tacit_sim.attacks.outcome import Outcome
from tacit_sim.attacks.table import LEARNING

torch.set_num_threads(1)

RNG = np.random.default_rng(0)


def test_ssim_is_one_for_equals_and_falls_with_noise():
    picture = np.clip(RNG.random((16, 16)), 0, 1)
    noisy = [ssim(picture, np.clip(picture + s * RNG.standard_normal((16, 16)), 0, 1)) for s in (0.05, 0.2, 1.0)]
    assert ssim(picture, picture) == pytest.approx(1.0)
    assert 1.0 > noisy[0] > noisy[1] > noisy[2]
    assert abs(ssim(picture, RNG.random((16, 16)))) < 0.15
    assert ssim(picture, 1 - picture) < -0.8


def test_ssim_by_hand():
    """Two even pictures differ in light only: (2ab + c) / (a^2 + b^2 + c)."""
    one, other = np.full((8, 8), 0.2), np.full((8, 8), 0.6)
    assert ssim(one, other) == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4))


def _update(network: nn.Module, picture: np.ndarray, label: int) -> np.ndarray:
    image = torch.from_numpy(2 * picture - 1).float().reshape(1, 1, *picture.shape)
    loss = IMAGE_CLASSIFICATION.loss(network(image), torch.tensor([label])).sum()
    return -torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))]).double().numpy()


def test_a_picture_comes_back_from_its_gradient_and_not_from_noise():
    torch.manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(144, 20), nn.Tanh(), nn.Linear(20, 4))
    picture = np.zeros((12, 12))
    picture[2:10, 4:6], picture[7:9, 4:11] = 1.0, 0.8
    update = _update(network, picture, 2)
    found = invert(network, update, side=12, seed=1)
    assert ssim(found, picture) > 0.8
    noise = RNG.standard_normal(len(update)) * np.abs(update).max()
    assert ssim(invert(network, update + noise, side=12, seed=1), picture) < 0.3


def _case(likeness: float, chance: float) -> Recovered:
    return Recovered(np.zeros((8, 8)), np.ones((8, 8)), likeness, chance)


@pytest.mark.parametrize(
    ("clear", "summed", "private", "refused"),
    [
        (0.9, 0.25, 0.0, True),
        (0.9, 0.35, 0.0, False),  # the sum gives something away
        (0.9, 0.25, 0.4, False),  # the noise does
        (0.3, 0.25, 0.0, False),  # an attack that fails on everything shows nothing
    ],
)
def test_the_verdict(monkeypatch, clear, summed, private, refused):
    monkeypatch.setenv("TACIT_DATA", "")
    cases = iter([_case(clear, 0.2), _case(summed, 0.24), _case(private, 0.01)])
    monkeypatch.setattr(inversion, "_attack", lambda *args: next(cases))
    monkeypatch.setattr(inversion, "calibrate", lambda **named: 0.7)  # seconds of computing that change no verdict
    found = gradient_inversion()
    assert found.refused is refused
    assert f"SSIM {clear:.2f} (chance 0.20)" in found.without
    with Image.open(io.BytesIO(found.picture)) as picture:
        assert picture.format == "PNG"


def test_the_command_draws_and_counts_them(tacit_sim, monkeypatch, tmp_path):
    made = Outcome("membership", True, "AUC 0.51", without="AUC 0.70", picture=b"PNG")
    monkeypatch.setitem(report.ATTACKS, "membership", lambda: made)
    flags = ("--json", tmp_path / "a.json", "--out", tmp_path / "new" / "out")
    code, out, err = tacit_sim("attack", "membership", *flags)
    assert (code, err) == (0, "")
    assert "unprotected: AUC 0.70" in out
    assert out.splitlines()[-1] == "Tacit refused 1 of 1; 1 without counterpart there"
    assert (tmp_path / "new" / "out" / "membership.png").read_bytes() == b"PNG"
    (row,) = json.loads((tmp_path / "a.json").read_text())["attacks"]
    assert (row["flower"], row["note"]) == (None, "unprotected: AUC 0.70")
    code, _, err = tacit_sim("attack", "membership", "--out", tmp_path / "a.json" / "out")
    assert code == 2
    assert err.startswith("error: expected a folder that can be written")


def test_attacks_on_learning_are_among_all():
    assert tuple(LEARNING) == ("gradient-inversion", "membership")
    assert tuple(report.ATTACKS)[-2:] == tuple(LEARNING)
