"""The CUDA back end: on a device the same bits as the CPU; without one, refusals that say why."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import fields, replace
from functools import partial
from typing import Any

import pytest
import torch
from priors import CASES, EVERYTHING, LINEAR, NAMED
from torch.utils._python_dispatch import TorchDispatchMode

from settx_fast import scm
from settx_fast.scm import _cuda, sampler
from settx_fast.scm._cpu import draw_tables
from settx_fast.scm._cuda import deep_width
from settx_fast.scm._native import native

TENSORS = [field.name for field in fields(scm.Batch) if field.name not in ("prior", "seed", "stream_version")]
BUILT_WITH_CUDA = native().find_devices().built_with_cuda
needs_device = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (BUILT_WITH_CUDA and torch.cuda.is_available()), reason="needs a CUDA GPU and nvcc"),
]


def assert_same_bits(ours: scm.Batch, expected: scm.Batch) -> None:
    """Every tensor, bit for bit; a NaN in `values` too."""
    for name in TENSORS:
        a, b = getattr(ours, name), getattr(expected, name)
        same = a is b if a is None or b is None else a.cpu().numpy().tobytes() == b.cpu().numpy().tobytes()
        assert same, name


class TestOnADevice:
    pytestmark = needs_device

    @pytest.mark.parametrize("case", CASES)
    def test_a_gpu_draws_the_bits_of_the_cpu(self, case):
        size = (4 if case == "wide" else 30, 150)
        request = {"seed": 5, "first_index": 1 << 33, "return_noise": True}
        batch = scm.sample(CASES[case], *size, **request, device="cuda")
        assert batch.device.type == "cuda"
        assert_same_bits(batch, scm.sample(CASES[case], *size, **request))

    @pytest.mark.parametrize("num_rows", [1, 64, 65, 129, 513, 2000, 70_001])
    def test_any_number_of_rows_has_the_bits_of_the_cpu(self, num_rows):
        prior = scm.Prior(5, target_environments=0)
        ours = scm.sample(prior, 3, num_rows, seed=1, device="cuda")
        assert_same_bits(ours, scm.sample(prior, 3, num_rows, seed=1))

    def test_a_batch_goes_from_device_to_device_and_is_resampled_where_it_is(self):
        on_cpu = scm.sample(EVERYTHING, 20, 64, seed=4)
        on_gpu = on_cpu.to("cuda")
        assert_same_bits(scm.resample(on_gpu, 500, seed=9), scm.resample(on_cpu, 500, seed=9))
        assert_same_bits(
            scm.resample(on_gpu, 80, seed=9, environments=0), scm.resample(on_cpu, 80, seed=9, environments=0)
        )
        assert_same_bits(on_gpu.do({1: 0.5}), on_cpu.do({1: 0.5}))

    def test_what_a_batch_says_of_itself_does_not_depend_on_where_it_is(self):
        on_cpu = scm.sample(EVERYTHING, 3, 60, seed=4)
        on_gpu = on_cpu.to("cuda")
        for name in ("variable_mask", "environment_mask", "row_counts", "is_finite"):
            assert torch.equal(getattr(on_gpu, name).cpu(), getattr(on_cpu, name)), name
        assert on_gpu.to_pandas(1).equals(on_cpu.to_pandas(1))
        assert dict(on_gpu.graph(1).edges) == dict(on_cpu.graph(1).edges)
        assert repr(on_gpu) == repr(on_cpu)

    def test_work_waits_its_turn_on_the_current_stream_and_nobody_waits_for_it(self):
        scm.sample(LINEAR, 8, 100, seed=3, device="cuda")  # the prior's image is made
        side = torch.cuda.Stream()
        torch.cuda.synchronize()
        with torch.cuda.stream(side):
            torch.cuda._sleep(1_000_000_000)
            batch = scm.sample(LINEAR, 8, 100, seed=3, device="cuda")
            assert not side.query()
        side.synchronize()
        assert_same_bits(batch, scm.sample(LINEAR, 8, 100, seed=3))

    def test_a_graph_captures_resampling(self):
        batch = scm.sample(EVERYTHING, 20, 100, seed=3, device="cuda")
        expected = scm.resample(batch, 200, seed=8)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = scm.resample(batch, 200, seed=8)
        for _ in range(2):
            captured.values.zero_()
            graph.replay()
            assert_same_bits(captured, expected)

    def test_a_graph_captures_sampling_of_linear_models(self):
        expected = scm.sample(LINEAR, 20, 100, seed=3, device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = scm.sample(LINEAR, 20, 100, seed=3, device="cuda")
        for _ in range(2):
            captured.values.zero_()
            graph.replay()
            assert_same_bits(captured, expected)

    def test_a_graph_draws_other_models_where_seed_and_index_on_the_device_were_changed(self):
        seed, first_index = torch.tensor(3, device="cuda"), torch.tensor(0, device="cuda")
        scm.sample(LINEAR, 20, 100, seed=3, device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = scm.sample(LINEAR, 20, 100, seed=seed, first_index=first_index, device="cuda")
        for number in (8, 9):
            seed.fill_(number), first_index.fill_(1000 * number)
            graph.replay()
            assert_same_bits(captured, scm.sample(LINEAR, 20, 100, seed=number, first_index=1000 * number))

    def test_a_captured_call_draws_fresh_rows_where_the_index_was_changed(self):
        batch = scm.sample(EVERYTHING, 20, 100, seed=3, device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = scm.resample(batch, 100, seed=8)
        batch.index.add_(1000)
        graph.replay()
        assert_same_bits(captured, scm.resample(batch, 100, seed=8))

    def test_threads_that_sample_at_once_do_not_disturb_each_other(self):
        wide, narrow = scm.Prior(200, scm.ErdosRenyi(2.0)), scm.Prior(3)
        expected = [scm.sample(prior, 4, 600, seed=3) for prior in (wide, narrow)]

        def sample_often(prior: scm.Prior) -> list[scm.Batch]:
            with torch.cuda.stream(torch.cuda.Stream()):
                return [scm.sample(prior, 4, 600, seed=3, device="cuda") for _ in range(200)]

        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(sample_often, (wide, narrow)))
        torch.cuda.synchronize()
        for batches, same in zip(found, expected, strict=True):
            for batch in batches[::20]:
                assert_same_bits(batch, same)

    def test_rows_are_written_to_memory_that_the_caller_gives(self):
        out = torch.full((4, 50, LINEAR.max_variables), torch.nan, device="cuda")
        batch = scm.sample(LINEAR, 4, 50, seed=3, device="cuda", out=out)
        assert batch.values is out
        assert_same_bits(batch, scm.sample(LINEAR, 4, 50, seed=3))

    def test_a_batch_beyond_the_devices_memory_is_refused(self):
        with pytest.raises(ValueError, match=r"num_rows: expected a batch within cuda:0's free memory of .* GB, got"):
            scm.sample(LINEAR, 1000, 1 << 30, seed=0, device="cuda")

    def test_a_device_that_is_not_there_is_refused(self):
        with pytest.raises(ValueError, match=r"device: expected 'cuda:.*' at most, got 'cuda:99'"):
            scm.sample(LINEAR, 1, 10, seed=0, device="cuda:99")


class TestWithoutADevice:
    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_asking_for_a_gpu_says_what_is_missing(self):
        missing = "torch finds no CUDA device" if BUILT_WITH_CUDA else "was built without CUDA"
        with pytest.raises(ValueError, match=rf"device: expected 'cpu' \(.*{missing}.*\), got 'cuda'"):
            scm.sample(LINEAR, 1, 10, seed=0, device="cuda")

    @pytest.mark.skipif(not BUILT_WITH_CUDA or torch.cuda.is_available(), reason="needs a CUDA build and no GPU")
    def test_a_failing_cuda_call_is_an_exception_with_its_name_and_words(self):
        with pytest.raises(RuntimeError, match=r"cudaError\w+: .+, while asking for the device's limits"):
            native().scratch_bytes_cuda((1, 1, 1, 0, 1), 10, 0, (True, True, 0, False, False), 0)


@pytest.mark.parametrize("case", ["everything", "internal"])
def test_what_a_graph_cannot_capture_says_so_before_the_host_is_asked(case, monkeypatch):
    monkeypatch.setattr(_cuda, "_is_capturing", lambda device: True)
    for work in ("places_of_parameters", "draw_tables", "_copy"):
        monkeypatch.setattr(_cuda, work, lambda *_: pytest.fail("the host was asked"))
    with pytest.raises(RuntimeError, match=r"a graph cannot capture the models of a prior that .*: .*`resample`"):
        _cuda.draw_tables_cuda(torch.device("cuda", 0), NAMED[case], 2, 0, 0, 1)


def test_a_graph_cannot_capture_the_first_batch_of_a_prior(monkeypatch):
    monkeypatch.setattr(_cuda, "_is_capturing", lambda device: True)
    never_sampled = replace(LINEAR, noise_scale=(0.5, 2.125))
    with pytest.raises(RuntimeError, match=r"a prior that no batch was sampled from yet"):
        _cuda.draw_tables_cuda(torch.device("cuda", 0), never_sampled, 2, 0, 0, 1)


@pytest.mark.parametrize("case", CASES)
def test_a_prior_copied_to_a_device_draws_the_same_models(case):
    size = (CASES[case], 2 if case == "wide" else 20, 5, 0, 1)
    direct, from_image = draw_tables(*size).tensors, draw_tables(*size, "rows").tensors
    for name, table in direct.items():
        assert torch.equal(table, from_image[name]), name


@pytest.mark.parametrize("variables", [1, 2, 4, 5, 31, 33, 129])  # a counter has four words, a team 32 to 128 members
def test_a_team_finds_the_order_that_exchanges_one_by_one_give(variables):
    size = scm.Prior(variables, scm.ErdosRenyi(edge_probability=0.1)), 30, 5, 0, 1
    one_by_one, by_team = draw_tables(*size).tensors, draw_tables(*size, "rows").tensors
    assert torch.equal(one_by_one["order"], by_team["order"])
    assert torch.equal(by_team["order"].sort().values, torch.arange(variables).expand(30, -1))


def test_scratch_for_deep_networks_is_as_wide_as_the_prior_allows():
    wide, deep = scm.MLP((50, 60), 1), scm.MLP((3, 9), (1, 3))
    assert deep_width(scm.Prior(mechanism=(wide, deep))) == 9
    assert deep_width(scm.Prior(mechanism=wide)) == 0


@pytest.fixture
def on_the_cpu(monkeypatch):
    """The CPU in place of a device: `device="cuda"` runs the same kernels on threads that stand in for those of one."""
    module, host = native(), torch.device("cpu")
    by_rows = _cuda.BackEnd(
        module.draw_by_rows, module.evaluate_by_rows, lambda *asked: module.scratch_bytes_by_rows(*asked),
        module.scratch_bytes_to_draw,
    )  # fmt: skip
    for name, stand_in in {
        "_back_end": lambda: by_rows,
        "_place": lambda device: (0, 0),
        "_current": lambda device: nullcontext(),
        "_wait_for": lambda device: None,
        "_copy": lambda tensor, device: tensor.clone(),
        "_is_capturing": lambda device: False,
        "check_memory_cuda": lambda *sizes: None,
    }.items():
        monkeypatch.setattr(_cuda, name, stand_in)
    monkeypatch.setattr(_cuda.Recipe, "keep_for", lambda self, stream: None)
    monkeypatch.setattr(sampler, "check_memory_cuda", lambda *sizes: None)
    monkeypatch.setattr(sampler, "check_device", lambda device: AsIfCuda() if device == "cuda" else host)
    monkeypatch.setattr(sampler, "draw_tables_cuda", partial(_on_host, _cuda.draw_tables_cuda))
    _cuda._image.cache_clear()
    _cuda._recipe.cache_clear()


class AsIfCuda:
    """What `sample` takes for a CUDA device."""

    type = "cuda"
    index = 0

    def __eq__(self, other: object) -> bool:
        return other == torch.device("cpu")

    __hash__ = object.__hash__

    def __str__(self) -> str:
        return "cpu"


def _on_host(draw: Any, device: AsIfCuda, *request: Any) -> Any:
    return draw(torch.device("cpu"), *request)


@pytest.mark.parametrize("case", CASES)
def test_what_python_hands_to_a_device_is_what_the_cpu_is_handed(case, on_the_cpu):
    size = (2, 100) if case == "wide" else (6, 150)
    request = {"seed": 3, "first_index": 1 << 33, "return_noise": True}
    assert_same_bits(
        scm.sample(CASES[case], *size, **request, device="cuda"), scm.sample(CASES[case], *size, **request)
    )


@pytest.mark.parametrize("share", [None, 0.4, (0.1, 0.9)])
@pytest.mark.parametrize("imbalance", [None, 16.0])
def test_a_device_splits_rows_as_the_host_does(share, imbalance, on_the_cpu):
    prior = scm.Prior(
        (2, 4),
        source_environments=(1, 6),
        target_environments=(1, 3),
        target_share=share,
        environment_imbalance=imbalance,
    )
    for num_rows in (9, 10, 97, 1005):
        ours = scm.sample(prior, 20, num_rows, seed=num_rows, device="cuda")
        assert torch.equal(ours.environment, scm.sample(prior, 20, num_rows, seed=num_rows).environment)


@pytest.mark.parametrize("name", ["drawn_linear", "everything", "internal"])
def test_seed_and_first_index_may_lie_on_the_device(name, on_the_cpu):
    seed, first_index = torch.tensor([0]), torch.tensor(0)
    for where in (5, 2**64 - 3):
        seed.fill_(where - 2**64 if where >= 2**63 else where), first_index.fill_(where % 1000)
        ours = scm.sample(NAMED[name], 4, 60, seed=seed, first_index=first_index, device="cuda")
        assert_same_bits(ours, scm.sample(NAMED[name], 4, 60, seed=where, first_index=where % 1000))


def test_a_batch_asks_torch_for_memory_and_nothing_else(on_the_cpu):
    scm.sample(LINEAR, 4, 60, seed=3, device="cuda")
    with Operators() as seen:
        batch = scm.sample(LINEAR, 4, 60, seed=3, device="cuda")
    from_numpy = {"aten.lift_fresh.default", "aten.detach.default"}  # on the host, in place of an empty tensor
    assert set(seen.names) - from_numpy == {"aten.empty.memory_format"}
    assert seen.names.count("aten.empty.memory_format") == 3  # where environments begin, and scratch twice
    assert batch.index.tolist() == [0, 1, 2, 3]


class Operators(TorchDispatchMode):
    """Counts what torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.append(str(operator))
        return operator(*args, **(kwargs or {}))
