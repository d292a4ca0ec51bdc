"""The example of a task of one's own: installed as a package, found, trained; a mixing variant is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "simulations" / "examples" / "own_task"

TRAIN = """
import numpy as np, torch
from tacit.data.examples import Examples
from tacit.models import check_independent, check_private
from tacit.tasks.table import find, parse_options
torch.set_num_threads(1)
torch.manual_seed(0)
found = find("rows")
rows = torch.randn(64, 5).numpy()
examples = Examples(rows, (rows[:, 0] > 0).astype(np.int64), ("low", "high"))
options = parse_options(found.task, "mlp", found.task.infer(examples))
data = found.task.encode(options, examples)
network = found.task.models["mlp"].build(options)
check_private(network)
check_independent(network, data.inputs)
losses = []
for _ in range(20):
    loss = found.task.loss(network(*data.inputs), data.targets).mean()
    losses.append(loss.item())
    network.zero_grad()
    loss.backward()
    with torch.no_grad():
        for p in network.parameters():
            p -= 0.5 * p.grad
print(found.package, losses[-1] < 0.6 * losses[0])
"""


def _python(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), str(ROOT / "common")])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "target"))
    copy = shutil.copytree(EXAMPLE, source / "own_task")
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *flags, "--target", target, copy], check=True, timeout=600)
    return target


def test_the_example_is_found_and_learns(installed):
    done = _python(installed, TRAIN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["tacit-own-task==0.1.0", "True"]


def test_the_example_with_a_norm_over_the_batch_is_refused(installed, tmp_path):
    variant = shutil.copytree(installed, tmp_path / "variant", ignore=shutil.ignore_patterns("__pycache__"))
    code = (variant / "own_task.py").read_text(encoding="utf-8")
    assert code.count("nn.Tanh(),") == 1
    mixing = code.replace("nn.Tanh(),", "nn.BatchNorm1d(options.width), nn.Tanh(),")
    (variant / "own_task.py").write_text(mixing, encoding="utf-8")
    done = _python(variant, TRAIN)
    assert done.returncode != 0
    assert "BadInput" in done.stderr
    assert "at 1 (BatchNorm1d)" in done.stderr


JOB = """
name = "rows"
[task]
kind = "rows"
model = "mlp"
[training]
rounds = 4
local_steps = 10
batch_size = 20
learning_rate = 2.0
[privacy]
mechanism = "dp-sgd"
epsilon = 20.0
delta = 1e-3
max_grad_norm = 1.0
[aggregation]
secure = false
[simulation]
dataset = "rows.csv"
input = "a,b"
label = "kind"
"""


def test_a_federation_trains_the_example_privately(installed, tmp_path):
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(400, 2))
    lines = [f"{a},{b},{'high' if a > 0 else 'low'}" for a, b in rows]
    (tmp_path / "rows.csv").write_text("a,b,kind\n" + "\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "job.toml").write_text(JOB, encoding="utf-8")
    packages = [installed, *(ROOT / name for name in ("common", "client", "server", "simulations"))]
    done = subprocess.run(
        [sys.executable, "-m", "tacit_sim.cli", "run", "job.toml", "--out", "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, packages))},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert result["metrics"]["test"]["accuracy"] > 0.8
    assert 0 < result["privacy"]["epsilon"] <= 20
    resolved = tomllib.loads((tmp_path / "out" / "job.resolved.toml").read_text(encoding="utf-8"))
    assert resolved["task"]["package"] == "tacit-own-task==0.1.0"


def test_the_example_is_short():
    assert len((EXAMPLE / "own_task.py").read_text(encoding="utf-8").splitlines()) <= 40
