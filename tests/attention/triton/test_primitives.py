"""Device functions against autograd, where a mistake would be small enough to hide in a whole block."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from settx_fast.attention.sets import Sets
from settx_fast.attention.triton.primitives import (
    activate,
    activation_slope,
    fast_gelu,
    matrix_precision,
    normalise_backward,
    round_to_tf32,
    standardise,
)
from settx_fast.attention.triton.sets import locate, num_blocks, rows_of


@triton.jit
def elementwise_kernel(x_ptr, y_ptr, size, ROUND: tl.constexpr):
    i = tl.program_id(0) * 64 + tl.arange(0, 64)
    x = tl.load(x_ptr + i, mask=i < size, other=0.0)
    tl.store(y_ptr + i, round_to_tf32(x) if ROUND else fast_gelu(x), mask=i < size)


def test_the_polynomial_gelu_is_within_5e_5_of_the_exact_one_everywhere(device: torch.device) -> None:
    z = torch.cat([torch.linspace(-8, 8, 4001), torch.tensor([-1e4, -100.0, 100.0, 1e4, 0.0])]).to(device)
    y = torch.empty_like(z)
    elementwise_kernel[(triton.cdiv(len(z), 64),)](z, y, len(z), False)
    exact = F.gelu(z.double())
    assert ((y.double() - exact).abs() <= 5e-5 + 1e-6 * exact.abs()).all()


def test_tf32_is_the_nearest_number_of_11_bits_and_no_infinity_or_nan_is_lost(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, generator=generator) * torch.logspace(-37, 37, 1000)
    special = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1 + 2**-11, -1 - 2**-11, 2 - 2**-20])
    payload = torch.tensor([0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)  # NaN as GPUs make it
    x = torch.cat([x, special, payload]).to(device)
    y = torch.empty_like(x)
    elementwise_kernel[(triton.cdiv(len(x), 64),)](x, y, len(x), True)
    finite = x.isfinite()
    assert torch.equal(y[finite].view(torch.int32) & 0x1FFF, torch.zeros_like(y[finite], dtype=torch.int32))
    step = 2.0 ** (torch.frexp(x[finite].double()).exponent - 11)
    assert ((y[finite].double() - x[finite].double()).abs() <= step / 2).all()
    assert torch.equal(y.isnan(), x.isnan())
    assert torch.equal(y[x.isinf()], x[x.isinf()])
    assert torch.equal(y[1005:1008].cpu(), torch.tensor([1 + 2**-10, -1 - 2**-10, 2.0])), "ties go away from zero"


@triton.jit
def activation_kernel(z_ptr, y_ptr, slope_ptr, ACTIVATION: tl.constexpr):
    i = tl.arange(0, 64)
    z = tl.load(z_ptr + i)
    tl.store(y_ptr + i, activate(z, ACTIVATION))
    tl.store(slope_ptr + i, activation_slope(z, ACTIVATION))


@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_activations_and_their_slopes_match_autograd(name: str, device: torch.device) -> None:
    z = torch.linspace(-6, 6, 64, device=device)
    z[31] = 0.0  # the kink of relu
    y, slope = torch.empty_like(z), torch.empty_like(z)
    activation_kernel[(1,)](z, y, slope, name)
    exact = z.double().requires_grad_()
    expected = F.relu(exact) if name == "relu" else F.gelu(exact)
    (expected_slope,) = torch.autograd.grad(expected.sum(), exact)
    torch.testing.assert_close(y.double(), expected.detach(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(slope.double(), expected_slope, atol=1e-6, rtol=1e-6)


@triton.jit
def norm_kernel(x_ptr, grad_ptr, gain_ptr, out_ptr, WIDTH: tl.constexpr, NORM: tl.constexpr):
    rows, columns = tl.arange(0, 16), tl.arange(0, 64)
    inside = (columns < WIDTH)[None, :] & (rows >= 0)[:, None]
    at = rows[:, None] * WIDTH + columns[None, :]
    standard, factor = standardise(tl.load(x_ptr + at, mask=inside, other=0.0), WIDTH, NORM, 1e-5)
    grad = tl.load(grad_ptr + at, mask=inside, other=0.0)
    grad = normalise_backward(grad, standard, factor, gain_ptr, WIDTH, NORM)
    tl.store(out_ptr + rows[:, None] * 64 + columns[None, :], grad)


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("width", [40, 64])
def test_norm_gradients_match_autograd_and_leave_padding_zero(norm: str, width: int, device: torch.device) -> None:
    x, grad = (torch.randn(16, width, device=device) * 3 + 1 for _ in range(2))
    gain, out = torch.randn(width, device=device), torch.empty(16, 64, device=device)
    norm_kernel[(1,)](x, grad, gain, out, width, norm)
    exact = x.double().requires_grad_()
    y = F.layer_norm(exact, (width,), eps=1e-5) if norm == "layer" else F.rms_norm(exact, (width,), eps=1e-5)
    (expected,) = torch.autograd.grad(y * gain, exact, grad.double())
    torch.testing.assert_close(out[:, :width].double(), expected, atol=1e-5, rtol=1e-5)
    assert not out[:, width:].any()


@triton.jit
def locate_kernel(x, N, num_sets, size, set_ptr, row_ptr):
    b, row = locate(tl.program_id(0), x, N, num_sets, size)
    tl.store(set_ptr + tl.program_id(0), b)
    tl.store(row_ptr + tl.program_id(0), row)


@pytest.mark.parametrize("lengths", [[0, 5, 0, 64, 65, 1, 0], [128], [0], [1] * 7, [63, 64, 65]])
def test_blocks_of_packed_sets_hold_every_row_once(lengths: list[int], device: torch.device) -> None:
    offsets = torch.tensor([0, *lengths], device=device).cumsum(0)
    sets = Sets(torch.empty(sum(lengths), 1, device=device), offsets=offsets)
    count = num_blocks(sets, 64)
    owners, rows = (torch.full((count,), -1, dtype=torch.int64, device=device) for _ in range(2))
    locate_kernel[(count,)](rows_of(sets), sets.longest, len(lengths), 64, owners, rows)
    held = [(b, row + i) for b, row in zip(owners.tolist(), rows.tolist(), strict=True) for i in range(64)]
    inside = [(b, row) for b, row in held if row < lengths[b]]
    assert sorted(inside) == [(b, row) for b, length in enumerate(lengths) for row in range(length)]


@triton.jit
def locate_one_kernel(block, x, N, num_sets, size, set_ptr, row_ptr):
    b, row = locate(block, x, N, num_sets, size)
    tl.store(set_ptr, b)
    tl.store(row_ptr, row)


def test_blocks_of_the_longest_set_there_can_be_are_counted_in_64_bits(device: torch.device) -> None:
    sets = Sets(torch.empty(2, 1, 1, device=device))
    place = torch.full((2,), -1, dtype=torch.int64, device=device)
    for block, expected in ((2**25 - 1, [0, 2**31 - 64]), (2**25, [1, 0])):
        locate_one_kernel[(1,)](block, rows_of(sets), 2**31 - 1, 2, 64, place, place[1:])
        assert place.tolist() == expected


def test_more_packed_sets_than_a_program_sees_at_once_are_searched(device: torch.device) -> None:
    """2,100 sets: the last of every 1,024 first, then those after it."""
    offsets = torch.tensor([0, *[0, 3, 70] * 700], device=device).cumsum(0)
    sets = Sets(torch.empty(int(offsets[-1]), 1, device=device), offsets=offsets)
    begins = (offsets[:-1] // 64 + torch.arange(2100, device=device)).tolist()
    place = torch.full((2,), -1, dtype=torch.int64, device=device)
    for block in (0, 1, 1500, 1767, 1768, 1769, 2400, 2800, begins[1023], begins[1024], begins[2048], begins[-1]):
        locate_one_kernel[(1,)](block, rows_of(sets), sets.longest, 2100, 64, place, place[1:])
        b = max(i for i, begin in enumerate(begins) if begin <= block)
        assert place.tolist() == [b, 64 * (block - begins[b])]


def test_products_of_fp32_follow_pytorchs_switch() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        assert matrix_precision(torch.float32) == "ieee"
        torch.set_float32_matmul_precision("high")
        assert matrix_precision(torch.float32) == "tf32"
        assert matrix_precision(torch.bfloat16) == "ieee"
    finally:
        torch.set_float32_matmul_precision(before)
