"""What a user does first, in an environment that holds the wheel alone: the drop-in, the sampler, `recommend`."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import torch

import settx_fast
from settx_fast import ISAB, scm


def main() -> None:
    for program in ("cc", "gcc", "g++", "c++", "clang", "nvcc", "ninja"):
        assert shutil.which(program) is None, f"{program} is on the PATH: this proves nothing"
    assert "site-packages" in settx_fast.__file__, f"the package is not the wheel's: {settx_fast.__file__}"
    print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, {settx_fast.__file__}")
    drop_in()
    sampler()
    recommend()
    print(run("doctor", "--brief"))


def drop_in() -> None:
    isab = ISAB(3, 64, 4, 16, ln=True)
    x = torch.randn(4, 200, 3, requires_grad=True)
    lengths = torch.tensor([200, 100, 7, 0])
    out = isab(x, lengths=lengths)
    out.square().sum().backward()
    assert x.grad is not None
    assert out.shape == (4, 200, 64)
    assert out[3].abs().max() == 0 == x.grad[2, 7:].abs().max()
    print("drop-in: forward, backward, ragged sets")


def sampler() -> None:
    prior = scm.presets.recurring(8, 4)
    batch = scm.sample(prior, 50, 200, seed=0)
    alone = scm.sample(prior, 1, 200, seed=0, first_index=33, num_threads=1)
    assert torch.equal(alone.values[0].nan_to_num(), batch.values[33].nan_to_num())
    assert scm.properties.compute(batch).risk.shape == (50, 3)
    print("sampler: the same bits alone and in a batch; properties")


def recommend() -> None:
    package = importlib.util.find_spec("palmerpenguins")
    assert package is not None
    assert package.submodule_search_locations is not None
    table = Path(package.submodule_search_locations[0]) / "data" / "penguins.csv"
    said = run("recommend", str(table), "--target", "body_mass_g", "--environment", "island", "--deploy", "Torgersen")
    assert "ERM" in said, said
    print("recommend:", said.strip().splitlines()[0])


def run(*arguments: str) -> str:
    result = subprocess.run(
        [str(Path(sys.executable).parent / "settx-fast"), *arguments], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


if __name__ == "__main__":
    main()
