"""Subject of the predictor: datasets a second that training takes in, sampling included, and sampling alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch

from benchmarks.suite import Contestant, Field, LeftOut, Setting, Subject
from settx_fast.functional import Impl
from settx_fast.nn import MAB

ROWS = 256
IMPLS: dict[str, Impl | None] = {"original": "reference", "SDPA": "composed", "settx_fast": None}


def _training(setting: Setting, name: str) -> Field:
    """Steps of `settx-fast train NAME`: draw a batch, encode it, forward, backward, update."""
    try:
        from settx_fast.predictor.config import preset
        from settx_fast.predictor.data import draw
        from settx_fast.predictor.training import Training, standardise
    except ImportError as error:
        raise LeftOut(f"the predictor's packages are not installed ({error})") from None
    if setting.on_cuda:
        raise LeftOut("the examples are drawn on the CPU: what the GPU does is in set-transformer")
    config = preset(name)
    batches = itertools.count()
    found = Field(dtype="float32")

    def step_of(impl: Impl | None) -> Callable[[], None]:
        training = Training(config)
        standardise(training.model, config, datasets=64)
        for module in training.model.modules():
            if isinstance(module, MAB):
                module.impl = impl
        optimizer = torch.optim.AdamW(training.parameters(), lr=config.learning_rate, weight_decay=0.0)

        def step() -> None:
            example = draw(config, config.seed, next(batches) * config.batch_size, config.batch_size, ROWS)
            optimizer.zero_grad()
            torch.stack(list(training.model.costs(example.inputs, example.model_truth()).values())).sum().backward()
            optimizer.step()

        return step

    for provider, impl in IMPLS.items():
        found.contestants.append(Contestant(provider, step_of(impl), config.batch_size))
    found.contestants.append(
        Contestant("sampling alone", lambda: draw(config, 0, 0, config.batch_size, ROWS), config.batch_size)
    )
    return found


def subjects() -> Iterator[Subject]:
    """One: the predictor's training."""
    title = f"The predictor's training, {ROWS} rows a dataset"
    presets = ("chain", "random_linear")
    yield Subject("predictor", title, "datasets/s", lambda s: presets, _training, presets[1:])
