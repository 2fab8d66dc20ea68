"""Who computes a call on a CPU: what a step would allocate decides."""

from typing import Any

import pytest
import torch

from settx_fast.attention import blockwise, composed
from settx_fast.attention.choice import Implementation, choose, saved_bytes
from settx_fast.testing import TABULAR, Shape, make_inputs


def _chosen(shape: Shape, x: torch.Tensor | None = None, **more: Any) -> Implementation:
    few = make_inputs(Shape(1, 1, shape.dim_in, shape.dim, shape.heads, 1, shape.options))
    x = torch.empty(shape.batch, shape.elements, shape.dim_in) if x is None else x
    return choose(None, x, shape.inducing, (few.weights_a, few.spec_a), (few.weights_b, few.spec_b), **more)


def _over_itself(x: torch.Tensor, length: int, **more: Any) -> Implementation:
    few = make_inputs(Shape(1, 1, 128, 128, 4, 1))
    return choose(None, x, length, (few.weights_a, few.spec_a), **more)


@pytest.mark.parametrize("sizes", [(20, 1000), (32, 256), (20, 5000)])
def test_tabular_blocks_save_while_there_is_room(sizes: tuple[int, int]) -> None:
    assert _chosen(Shape(*sizes, 128, 128, 8, 128, TABULAR)) is composed


def test_blocks_of_few_scores_save_less() -> None:
    assert _chosen(Shape(20, 1000, 128, 128, 4, 32)) is composed
    assert _chosen(Shape(4, 16_384, 128, 128, 4, 32)) is blockwise


@pytest.mark.parametrize("options", [{"norm": "layer"}, TABULAR])
def test_a_large_step_never_saves(options: dict[str, Any]) -> None:
    assert _chosen(Shape(1, 200_000, 128, 128, 8, 128, options)) is blockwise


def test_without_a_gradient_tiles_take_all_but_small_calls() -> None:
    with torch.no_grad():
        assert _chosen(Shape(20, 1000, 128, 128, 8, 128, TABULAR)) is blockwise
        assert _chosen(Shape(20, 1000, 128, 128, 8, 32, TABULAR)) is blockwise
        assert _chosen(Shape(1, 200_000, 128, 128, 8, 128, TABULAR)) is blockwise


def test_without_a_gradient_a_small_call_goes_to_the_library() -> None:
    offsets = torch.arange(0, 9) * 1024
    with torch.no_grad():
        assert _chosen(Shape(8, 1024, 16, 128, 4, 32)) is composed
        assert _chosen(Shape(8, 1025, 16, 128, 4, 32)) is blockwise
        assert _chosen(Shape(8, 1024, 16, 128, 4, 32), torch.empty(8192, 16), offsets=offsets) is composed
        offsets[1:] += 1
        assert _chosen(Shape(8, 1024, 16, 128, 4, 32), torch.empty(8193, 16), offsets=offsets) is blockwise


def test_packed_sets_count_as_what_they_are_padded_to() -> None:
    lengths = torch.full((512,), 16)
    rows, shape = torch.empty(int(lengths.sum()) + 4000 - 16, 64), Shape(512, 4000, 64, 64, 4, 16)
    even, uneven = lengths, lengths.clone()
    uneven[7] = 4000
    offsets = [torch.nn.functional.pad(sizes.cumsum(0), (1, 0)) for sizes in (even, uneven)]
    assert _chosen(shape, rows[: offsets[0][-1]], offsets=offsets[0]) is composed
    assert _chosen(shape, rows, offsets=offsets[1]) is blockwise
    spec = make_inputs(Shape(1, 1, 64, 64, 4, 1)).spec_a
    assert saved_bytes(rows, spec, 64, offsets[1]) == saved_bytes(torch.empty(512, 4000, 64), spec, 64)
    assert saved_bytes(rows[:0], spec, 64, torch.zeros(1, dtype=torch.long)) == 0


def test_a_set_over_itself_is_left_to_the_library_unless_padding_would_fill_memory() -> None:
    assert _over_itself(torch.empty(4, 1000, 128), 1000) is composed
    with torch.no_grad():
        assert _over_itself(torch.empty(4, 1000, 128), 1000) is composed
    sizes = torch.full((20,), 1000)
    offsets = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
    rows = torch.empty(20_000, 128)
    assert saved_bytes(rows, make_inputs(Shape(1, 1, 128, 128, 4, 1)).spec_a, 128, offsets) < 2**27
    assert _over_itself(rows, 20_000, offsets=offsets) is blockwise  # 320 MB of scores
    assert _over_itself(rows[:2000], 2000, offsets=offsets[:3]) is composed
