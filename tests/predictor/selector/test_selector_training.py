from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from settx_fast import scm
from settx_fast.predictor.selector import pretraining
from settx_fast.predictor.selector.decision import mean_regret
from settx_fast.predictor.selector.examples import Examples, batches, draw, draw_file, of_batch, read, read_all
from settx_fast.predictor.selector.measure import Trees
from settx_fast.predictor.selector.network import NetworkConfig, SelectorNetwork
from settx_fast.predictor.selector.training import Schedule, guesses, train

PRIOR = scm.presets.recurring(6, 3)
SMALL = NetworkConfig(hidden=16, layers=1, num_heads=2, summary=32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("examples")
    paths = [directory / f"{k}-part.safetensors" for k in range(2)]
    for k, path in enumerate(paths):
        draw_file(path, PRIOR, 64, (200, 200), seed=5, first_index=64 * k)
    return paths


def test_examples_do_not_depend_on_what_they_are_drawn_with() -> None:
    together, alone = draw(PRIOR, 8, 200, 5, 0), draw(PRIOR, 1, 200, 5, 0)
    number = int((together.log_risk - alone.log_risk).abs().sum(1).argmin())
    torch.testing.assert_close(together.log_risk[number], alone.log_risk[0], rtol=1e-4, atol=1e-4)
    p, k = alone.role.shape[1], alone.descriptors.sources.shape[1]
    torch.testing.assert_close(together.role[number, :p], alone.role[0])
    torch.testing.assert_close(
        together.descriptors.sources[number, :k], alone.descriptors.sources[0], rtol=1e-3, atol=1e-3
    )


def test_without_deployment_nothing_of_its_rows_is_seen() -> None:
    batch = scm.sample(PRIOR, 4, 200, seed=1, num_threads=1)
    hidden = of_batch(batch, has_deployment=False).descriptors
    moved = of_batch(batch, has_deployment=True).descriptors
    assert (hidden.dataset[:, 3] == 0).all()
    assert (moved.dataset[:, 3] > 0).all()


def test_a_file_that_is_there_is_not_drawn_again(files: list[Path]) -> None:
    before = files[0].stat().st_mtime_ns
    draw_file(files[0], PRIOR, 64, (200, 200), seed=5, first_index=0)
    assert files[0].stat().st_mtime_ns == before


def test_a_pass_shows_every_example_once(files: list[Path]) -> None:
    kinds = read_all(files)
    seen = torch.cat([batch.log_risk for batch in batches(kinds, 10, seed=0)])
    every = torch.cat([kind.log_risk for kind in kinds])
    assert torch.equal(seen.sort(0).values, every.sort(0).values)
    assert not torch.equal(seen, every)


def test_training_learns_and_an_interrupted_run_comes_to_the_same_network(files: list[Path], tmp_path: Path) -> None:
    schedule = Schedule(epochs=6, batch_size=16, learning_rate=3e-3)
    whole = train(read_all(files), SMALL, schedule, tmp_path / "whole.pt", progress=lambda line: None)

    class InterruptionError(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("epoch 3"):
            raise InterruptionError

    with pytest.raises(InterruptionError):
        train(read_all(files), SMALL, schedule, tmp_path / "half.pt", progress=stop)
    lines: list[str] = []
    resumed = train(read_all(files), SMALL, schedule, tmp_path / "half.pt", progress=lines.append)
    assert [line.split(":")[0] for line in lines] == ["epoch 4 of 6", "epoch 5 of 6", "epoch 6 of 6"]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    losses = [float(line.split()[5].rstrip(",")) for line in lines]
    assert losses[-1] < losses[0]
    examples = read(files[0])
    erm = float(mean_regret(examples.log_risk, torch.zeros(len(examples), dtype=torch.long)))
    assert float(mean_regret(examples.log_risk, guesses(whole, examples).log_risk.argmin(1))) < erm


def test_a_checkpoint_of_another_network_is_refused(files: list[Path], tmp_path: Path) -> None:
    train(read_all(files), SMALL, Schedule(epochs=1), tmp_path / "last.pt", progress=lambda line: None)
    with pytest.raises(ValueError, match="checkpoint: expected"):
        train(read_all(files), NetworkConfig(hidden=8, layers=1, num_heads=2), Schedule(epochs=1), tmp_path / "last.pt")


def test_pretraining_writes_a_selector_and_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = pretraining.Part("tiny", PRIOR, 2, 40, (150, 300))
    uses = dict.fromkeys(("train", "calibrate", "test"), (part,))
    uses["roles"] = tuple(pretraining.Part(name, PRIOR, 1, 20, (150, 300)) for name in ("linear", "independent"))
    monkeypatch.setattr(pretraining, "parts", lambda scale: uses)
    monkeypatch.setattr(pretraining, "Trees", partial(Trees, iterations=3))
    out = tmp_path / "out" / "selector.safetensors"
    made = pretraining.pretrain(tmp_path / "work", out, 1.0, Schedule(epochs=2, batch_size=16), SMALL, members=2)
    first, second = made.network.members
    assert not torch.allclose(first.role.weight, second.role.weight)  # seeds of their own
    paths = {job.path for job in pretraining.jobs(tmp_path / "work", 1.0, 0)}
    assert len(paths) == 8
    assert all(path.exists() for path in paths)
    drawn = [read(path).log_risk for path in sorted(paths)]
    assert len({float(each[0, 0]) for each in drawn}) == 8  # no two files hold the same datasets
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    for name, regret in made.record["regret"].items():
        assert f"| {name} | {regret:.1%} |" in card
    assert {"selector", "erm", "leave-one-source-out", "trees"} <= set(made.record["regret"])
    assert isinstance(made.record["regret"]["selector"], float)


def test_members_trained_side_by_side_are_those_trained_in_turn(files: list[Path], tmp_path: Path) -> None:
    kinds = read_all(files)

    def trainings(place: str) -> list[Callable[..., SelectorNetwork]]:
        own = [Schedule(epochs=2, batch_size=16, seed=seed) for seed in range(3)]
        return [partial(train, kinds, SMALL, each, tmp_path / place / f"{each.seed}.pt") for each in own]

    in_turn = [each(progress=lambda line: None) for each in trainings("in turn")]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.randn(2**20).exp()  # OpenMP has threads, which a process that is forked off has not
    pretraining.train_side_by_side(trainings("side by side"), kinds[0], 2)
    torch.set_num_threads(before)
    for alone, each in zip(in_turn, trainings("side by side"), strict=True):
        made = each(progress=pytest.fail).state_dict()  # nothing is left to train
        for name, tensor in alone.state_dict().items():
            assert torch.equal(made[name], tensor), name


def test_an_example_holds_true_risks_beside_what_is_seen(examples: Examples) -> None:
    """On average a risk is higher in deployment than in sample, and they belong to the same dataset."""
    inside, outside = examples.descriptors.frameworks[..., 0], examples.log_risk
    assert (outside - inside).mean() > 0.1
    shuffled = outside.roll(1, 0)
    assert (outside - inside).square().mean() < (shuffled - inside).square().mean()
