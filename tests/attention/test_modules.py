"""The modules are the original's: same parameters, same numbers, and clear words for what does not fit."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import settx_fast
from settx_fast import ISAB, MAB, PMA, SAB, BlockSpec, DeepSet, SetTransformer
from settx_fast.functional import Impl


class OriginalMAB(nn.Module):
    """Lee et al. 2019, equation 6 with the public code's choices, written from the formulas."""

    def __init__(self, dim_q: int, dim_k: int, dim: int, heads: int, ln: bool) -> None:
        super().__init__()
        self.heads, self.dim = heads, dim
        self.fc_q, self.fc_k, self.fc_v = nn.Linear(dim_q, dim), nn.Linear(dim_k, dim), nn.Linear(dim_k, dim)
        self.ln0, self.ln1 = (nn.LayerNorm(dim), nn.LayerNorm(dim)) if ln else (nn.Identity(), nn.Identity())
        self.fc_o = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        q, k, v = (
            layer(x).view(*x.shape[:2], self.heads, -1)
            for layer, x in ((self.fc_q, queries), (self.fc_k, keys), (self.fc_v, keys))
        )
        attention = torch.einsum("bqhe,bkhe->bhqk", q, k).div(math.sqrt(self.dim)).softmax(-1)
        out = self.ln0((q + torch.einsum("bhqk,bkhe->bqhe", attention, v)).flatten(2))
        return self.ln1(out + F.relu(self.fc_o(out)))


class OriginalISAB(nn.Module):
    def __init__(self, dim_in: int, dim_out: int, heads: int, inducing: int, ln: bool) -> None:
        super().__init__()
        self.I = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, inducing, dim_out)))
        self.mab0 = OriginalMAB(dim_out, dim_in, dim_out, heads, ln)
        self.mab1 = OriginalMAB(dim_in, dim_out, dim_out, heads, ln)

    def forward(self, x: Tensor) -> Tensor:
        return self.mab1(x, self.mab0(self.I.repeat(len(x), 1, 1), x))


class OriginalPMA(nn.Module):
    def __init__(self, dim: int, heads: int, seeds: int, ln: bool) -> None:
        super().__init__()
        self.S = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, seeds, dim)))
        self.mab = OriginalMAB(dim, dim, dim, heads, ln)

    def forward(self, x: Tensor) -> Tensor:
        return self.mab(self.S.repeat(len(x), 1, 1), x)


class OriginalSAB(nn.Module):
    def __init__(self, dim_in: int, dim_out: int, heads: int, ln: bool) -> None:
        super().__init__()
        self.mab = OriginalMAB(dim_in, dim_in, dim_out, heads, ln)

    def forward(self, x: Tensor) -> Tensor:
        return self.mab(x, x)


class OriginalSetTransformer(nn.Module):
    def __init__(self, dim_input: int, outputs: int, dim_output: int, inducing: int, dim: int, heads: int, ln: bool):
        super().__init__()
        self.enc = nn.Sequential(
            OriginalISAB(dim_input, dim, heads, inducing, ln), OriginalISAB(dim, dim, heads, inducing, ln)
        )
        self.dec = nn.Sequential(
            OriginalPMA(dim, heads, outputs, ln),
            OriginalSAB(dim, dim, heads, ln),
            OriginalSAB(dim, dim, heads, ln),
            nn.Linear(dim, dim_output),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.dec(self.enc(x))


PAIRS = {
    "MAB": (lambda ln: OriginalMAB(6, 5, 8, 2, ln), lambda ln: MAB(6, 5, 8, 2, ln)),
    "SAB": (lambda ln: OriginalSAB(5, 8, 4, ln), lambda ln: SAB(5, 8, 4, ln)),
    "ISAB": (lambda ln: OriginalISAB(5, 8, 2, 3, ln), lambda ln: ISAB(5, 8, 2, 3, ln)),
    "PMA": (lambda ln: OriginalPMA(8, 2, 3, ln), lambda ln: PMA(8, 2, 3, ln)),
    "SetTransformer": (
        lambda ln: OriginalSetTransformer(5, 2, 7, 4, 16, 4, ln),
        lambda ln: SetTransformer(5, 2, 7, 4, 16, 4, ln),
    ),
}


def _inputs(name: str) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    width = {"PMA": 8, "MAB": 6}.get(name, 5)
    x = torch.randn(3, 21, width, generator=generator, dtype=torch.float64)
    return (x, torch.randn(3, 11, 5, generator=generator, dtype=torch.float64)) if name == "MAB" else (x,)


@pytest.mark.parametrize("ln", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_one_seed_gives_the_weights_of_the_original(name: str, ln: bool) -> None:
    make_original, make_ours = PAIRS[name]
    torch.manual_seed(11)
    original = make_original(ln).state_dict()
    torch.manual_seed(11)
    ours = make_ours(ln).state_dict()
    assert list(ours) == list(original)
    assert all(torch.equal(ours[key], original[key]) for key in original)


@pytest.mark.parametrize("impl", ["reference", "blockwise", "composed"])
@pytest.mark.parametrize("ln", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_a_state_dict_of_the_original_gives_its_numbers(name: str, ln: bool, impl: str) -> None:
    original, ours = (make(ln).double() for make in PAIRS[name])
    for parameter in original.parameters():  # far from the initial, nearly uniform attention
        nn.init.normal_(parameter, std=0.7)
    ours.load_state_dict(original.state_dict())
    for module in ours.modules():
        if isinstance(module, MAB):
            module.impl = impl
    inputs = _inputs(name)
    torch.testing.assert_close(ours(*inputs), original(*inputs), rtol=1e-11, atol=1e-11)
    original.load_state_dict(ours.state_dict())


def test_deep_set_is_network_mean_network() -> None:
    torch.manual_seed(5)
    model = DeepSet(3, 2, 4, dim_hidden=8, dtype=torch.float64)
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert [name for name, _ in model.named_parameters() if name.endswith("weight")] == [
        f"{part}.{index}.weight" for part in ("enc", "dec") for index in (0, 2, 4, 6)
    ]
    x = torch.randn(5, 9, 3, dtype=torch.float64)
    hidden = x
    for index, layer in enumerate(linears):
        if index == 4:
            hidden = hidden.mean(1)
        hidden = hidden @ layer.weight.T + layer.bias
        hidden = hidden if index in (3, 7) else hidden.clamp(min=0)
    torch.testing.assert_close(model(x), hidden.reshape(5, 2, 4))


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_every_parameter_of_the_family_gets_a_gradient(norm: str) -> None:
    layer = ISAB(16, 16, 4, 3, norm=norm, norm_first=True, residual="input", output_projection=True, ffn_dim=24)
    layer(torch.randn(2, 10, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    assert "norm_first=True" in repr(layer)
    assert "num_inds=3" in repr(layer)


def test_dtype_and_device_reach_every_parameter() -> None:
    model = SetTransformer(3, 1, 2, num_inds=4, dim_hidden=8, num_heads=2, ln=True, dtype=torch.float64, device="meta")
    assert {(p.dtype, p.device.type) for p in model.parameters()} == {(torch.float64, "meta")}


def test_autocast_decides_the_dtype_of_the_output() -> None:
    layer = ISAB(5, 8, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(torch.randn(2, 7, 5))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert layer.mab0.fc_v.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("impl", [None, "composed", "blockwise"])
def test_autocast_leaves_float64_alone(impl: Impl | None) -> None:
    layer, x = ISAB(5, 8, 2, 3, dtype=torch.float64, impl=impl), torch.randn(2, 7, 5, dtype=torch.float64)
    expected = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.float64
    assert torch.equal(out, expected)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ISAB(3, 10, 4, 2), ValueError, "divisible by 4 heads, got 10"),
        (lambda: ISAB(3, 8, 4, 2, residual="input"), ValueError, "expects a query 8 wide, got 3"),
        (lambda: ISAB(3, 8, 4, 2, ln=True, norm_first=True), ValueError, "norm_first expects query and key of one"),
        (lambda: BlockSpec(4, norm="batch"), ValueError, "norm: expected one of"),  # type: ignore[arg-type]
        (lambda: BlockSpec(0), ValueError, "num_heads: expected at least 1, got 0"),
        (lambda: ISAB(3, 8, 2, 2)(torch.randn(4, 3)), ValueError, r"x: expected shape \(B, N, C\), got \(4, 3\)"),
        (lambda: ISAB(3, 8, 2, 2)(torch.randn(1, 4, 5)), ValueError, r"x: expected shape \(B, N, 3\), got \(1, 4, 5\)"),
        (
            lambda: MAB(3, 5, 4, 2)(*torch.ones(2, 2, 4, 3)),
            ValueError,
            r"key: expected shape \(B, N, 5\), got \(2, 4, 3\)",
        ),
        (lambda: ISAB(3, 8, 2, 2)(torch.ones(1, 4, 3).long()), TypeError, "x: expected a floating-point tensor"),
        (lambda: ISAB(3, 8, 2, 2)(torch.ones(1, 4, 3).double()), TypeError, "x: expected torch.float32 on cpu"),
        (lambda: ISAB(3, 8, 2, 2)([[1.0]]), TypeError, "x: expected a tensor, got list"),
        (lambda: ISAB(3, 8, 2, 2, impl="cuda")(torch.ones(1, 4, 3)), ValueError, "impl: expected None, 'triton' or"),  # type: ignore[arg-type]
        (lambda: ISAB(3, 8, 2, 2, impl="triton")(torch.ones(1, 4, 3)), ValueError, "'triton' cannot take this call"),
        (lambda: MAB(3, 3, 4, 2)(torch.ones(2, 4, 3), torch.ones(3, 4, 3)), ValueError, "batch of 1 or 3"),
    ],
)
def test_misuse_is_named(call, error, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=words):
        call()


def test_exports_are_complete() -> None:
    assert {"ISAB", "MAB", "PMA", "SAB", "SetTransformer", "DeepSet", "BlockSpec", "functional"} <= set(dir(settx_fast))
