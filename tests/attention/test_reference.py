"""The oracle agrees with formulas that others wrote, for the blocks that others have."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from settx_fast import BlockSpec, BlockWeights, functional
from settx_fast.testing import make_weights

DIM, HEADS = 16, 4


def _attention(w: BlockWeights) -> nn.MultiheadAttention:
    """PyTorch's own multihead attention (scale 1/√E, output projection) with our weights."""
    attention = nn.MultiheadAttention(DIM, HEADS, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([w.w_q, w.w_k, w.w_v]))
        attention.in_proj_bias.copy_(torch.cat([w.b_q, w.b_k, w.b_v]))
        attention.out_proj.weight.copy_(w.w_p)
        attention.out_proj.bias.copy_(w.b_p)
    return attention


def _problem(spec: BlockSpec) -> tuple[Tensor, Tensor, BlockWeights]:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(3, n, DIM, generator=generator, dtype=torch.float64) for n in (7, 12))
    weights = make_weights(spec, DIM, DIM, DIM, generator)
    return query, key, BlockWeights(*(None if t is None else t.double() for t in weights))


def test_post_norm_block_is_attention_norm_feed_forward_norm() -> None:
    spec = BlockSpec(HEADS, "layer", residual="input", output_projection=True, scale="head")
    query, key, w = _problem(spec)
    mid = F.layer_norm(query + _attention(w)(query, key, key)[0], (DIM,), w.g0, w.b0)
    expected = F.layer_norm(mid + F.relu(F.linear(mid, w.w_o, w.b_o)), (DIM,), w.g1, w.b1)
    torch.testing.assert_close(functional.attention_block(query, key, w, spec, impl="reference"), expected)


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_pre_norm_block_norms_what_it_reads(norm: str) -> None:
    spec = BlockSpec(HEADS, norm, True, "input", True, "gelu", 40, "head")  # type: ignore[arg-type]
    query, key, w = _problem(spec)

    def normed(x: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
        return F.layer_norm(x, (DIM,), gain, bias) if norm == "layer" else F.rms_norm(x, (DIM,), gain, 1e-5)

    read = normed(key, w.g0, w.b0)
    mid = query + _attention(w)(normed(query, w.g0, w.b0), read, read)[0]
    hidden = F.gelu(F.linear(normed(mid, w.g1, w.b1), w.w_o, w.b_o))
    expected = mid + F.linear(hidden, w.w_o2, w.b_o2)
    torch.testing.assert_close(functional.attention_block(query, key, w, spec, impl="reference"), expected)


def test_scales_differ_by_the_root_of_the_heads() -> None:
    assert BlockSpec(4, scale="head").score_scale(64) == 4**0.5 * BlockSpec(4, scale="model").score_scale(64) == 0.25


def test_test_inputs_make_attention_sharp() -> None:
    """Uniform attention would hide a wrong key, a wrong head or a missing scale."""
    spec = BlockSpec(HEADS)
    query, key, w = _problem(spec)
    scores = (query @ w.w_q.T).unflatten(-1, (HEADS, -1)).transpose(1, 2)
    scores = scores @ (key @ w.w_k.T).unflatten(-1, (HEADS, -1)).permute(0, 2, 3, 1) * spec.score_scale(DIM)
    assert 1 < scores.std() < 4
