"""Layers that were replaced or carry hooks are called, as in the original: nothing of them is lost, nothing fails."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize, prune, weight_norm

from settx_fast import ISAB, MAB, PMA, SAB, SetTransformer, functional
from settx_fast.attention import modular
from settx_fast.testing import VARIANTS


class LoRA(nn.Module):
    """A low-rank update beside a layer that keeps its weights."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False, dtype=base.weight.dtype)
        self.up = nn.Linear(rank, base.out_features, bias=False, dtype=base.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))

    def merged(self) -> nn.Linear:
        """The same in one plain layer."""
        plain = nn.Linear(self.base.in_features, self.base.out_features, dtype=self.base.weight.dtype)
        with torch.no_grad():
            plain.weight.copy_(self.base.weight + self.up.weight @ self.down.weight)
            plain.bias.copy_(self.base.bias)
        return plain


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class Half(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


def _scaled(layer: nn.Linear, factor: float) -> nn.Linear:
    layer.weight.data *= factor
    layer.bias.data *= factor
    return layer


# what is done to the layer of a name, and to a plain one so that it computes the same
CHANGES: dict[str, tuple[Callable[[Any, str], object], Callable[[Any, str], object]]] = {
    "LoRA": (
        lambda mab, name: setattr(mab, name, _seeded(LoRA, getattr(mab, name))),
        lambda mab, name: setattr(mab, name, _seeded(LoRA, getattr(mab, name)).merged()),
    ),
    "a subclass of Linear": (
        lambda mab, name: setattr(getattr(mab, name), "__class__", Half),
        lambda mab, name: _scaled(getattr(mab, name), 0.5),
    ),
    "no bias": (
        lambda mab, name: setattr(getattr(mab, name), "bias", None),
        lambda mab, name: getattr(mab, name).bias.data.zero_(),
    ),
    "a forward hook": (
        lambda mab, name: getattr(mab, name).register_forward_hook(lambda module, inputs, out: out * 3),
        lambda mab, name: _scaled(getattr(mab, name), 3),
    ),
    "a hook before": (
        lambda mab, name: getattr(mab, name).register_forward_pre_hook(lambda module, inputs: (inputs[0] * 3,)),
        lambda mab, name: getattr(mab, name).weight.data.mul_(3),
    ),
    "pruning": (
        lambda mab, name: prune.l1_unstructured(getattr(mab, name), "weight", amount=0.5),
        lambda mab, name: prune.remove(prune.l1_unstructured(getattr(mab, name), "weight", amount=0.5), "weight"),
    ),
    "weight norm of old": (
        lambda mab, name: weight_norm(getattr(mab, name)).weight_g.data.mul_(2),
        lambda mab, name: getattr(mab, name).weight.data.mul_(2),
    ),
    "parametrization": (
        lambda mab, name: parametrize.register_parametrization(getattr(mab, name), "weight", Doubled()),
        lambda mab, name: getattr(mab, name).weight.data.mul_(2),
    ),
}


def _seeded(make: Callable[[Any], Any], base: Any) -> Any:
    torch.manual_seed(17)
    return make(base)


def _isab(**options: Any) -> ISAB:
    torch.manual_seed(3)
    layer = ISAB(8, 8, 2, 4, dtype=torch.float64, **options)
    for parameter in layer.parameters():  # far from nearly uniform attention
        nn.init.normal_(parameter, std=0.7)
    return layer


RAGGED = {
    "full": {},
    "lengths": {"lengths": torch.tensor([9, 0, 4])},
    "mask": {"mask": torch.arange(27).view(3, 9) % 3 > 0},
    "context": {"context_lengths": torch.tensor([5, 9, 0]), "lengths": torch.tensor([9, 3, 4])},
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
@pytest.mark.parametrize("ragged", RAGGED)
@pytest.mark.parametrize("name", ["mab0.fc_q", "mab0.fc_k", "mab1.fc_v", "mab1.fc_o"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_layer_computes_what_a_plain_one_with_its_weights_would(change: str, name: str, ragged: str) -> None:
    changed, plain = _isab(norm="layer"), _isab(norm="layer")
    block, layer = name.split(".")
    for model, make in zip((changed, plain), CHANGES[change], strict=True):
        make(getattr(model, block), layer)
    assert plain.mab0.plain_weights() is not None
    x = torch.randn(3, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(changed(x, **RAGGED[ragged]), plain(x, **RAGGED[ragged]))


@pytest.mark.parametrize("ragged", RAGGED)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_block_computes_through_its_modules_what_it_computes_without(variant: str, ragged: str) -> None:
    layer, x = _isab(**VARIANTS[variant]), torch.randn(3, 9, 8, dtype=torch.float64, requires_grad=True)
    results = []
    for _ in range(2):
        out = layer(x, **RAGGED[ragged])
        results.append([out, *torch.autograd.grad(out.sin().sum(), [x, *layer.parameters()])])
        for mab in (layer.mab0, layer.mab1):
            mab.fc_q.register_forward_hook(lambda module, inputs, out: None)
    torch.testing.assert_close(*results)


def test_jagged_sets_are_read_through_modules_too() -> None:
    layer = _isab()
    sets = [torch.randn(n, 8, dtype=torch.float64) for n in (5, 0, 2)]
    expected = layer(torch.nested.nested_tensor(sets, layout=torch.jagged)).values()
    layer.mab0.fc_k.register_forward_hook(lambda module, inputs, out: None)
    layer.mab1.fc_k.register_forward_hook(lambda module, inputs, out: None)
    out = layer(torch.nested.nested_tensor(sets, layout=torch.jagged))
    torch.testing.assert_close(out.values(), expected)


def test_every_gradient_reaches_an_adapter() -> None:
    layer = _isab()
    layer.mab1.fc_q = LoRA(layer.mab1.fc_q)
    layer(torch.randn(3, 9, 8, dtype=torch.float64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in layer.mab1.fc_q.parameters())


@pytest.mark.parametrize("where", ["mab0", "mab1", "mab0.fc_k", "mab1.fc_o", "mab0.ln0"])
def test_a_hook_anywhere_in_an_isab_sees_its_module_called(where: str) -> None:
    layer, seen = _isab(norm="layer"), []
    layer.get_submodule(where).register_forward_hook(lambda module, inputs, out: seen.append(out))
    backward = []
    layer.get_submodule(where).register_full_backward_hook(lambda module, d_in, d_out: backward.append(d_out))
    layer(torch.randn(3, 9, 8, dtype=torch.float64)).sum().backward()
    assert len(seen) == len(backward) > 0


@pytest.mark.parametrize("where", ["enc", "dec", "enc.0", "enc.1.mab0", "dec.0.mab", "dec.1.mab.fc_v", "dec.3"])
def test_a_hook_anywhere_in_a_set_transformer_sees_its_module_called(where: str) -> None:
    model, seen = SetTransformer(3, 2, 1, num_inds=4, dim_hidden=8, num_heads=2), []
    model.get_submodule(where).register_forward_hook(lambda module, inputs, out: seen.append(out))
    model(torch.randn(2, 5, 3), lengths=torch.tensor([5, 2]))
    assert len(seen) == 1


def test_a_hook_on_all_modules_sees_the_layers_called() -> None:
    layer, seen = _isab(), []
    handle = register_module_forward_hook(lambda module, inputs, out: seen.append(type(module)))
    try:
        layer(torch.randn(3, 9, 8, dtype=torch.float64))
    finally:
        handle.remove()
    assert seen.count(nn.Linear) == 8


class Foreign(nn.Module):
    """A block of somebody else, that knows no ragged sets and no shared queries."""

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return torch.baddbmm(query, query @ key.mT, key)


def test_a_block_that_was_replaced_is_called() -> None:
    layer, x = _isab(), torch.randn(3, 9, 8, dtype=torch.float64)
    layer.mab0 = Foreign()
    hidden = Foreign()(layer.I.expand(3, -1, -1), x)
    torch.testing.assert_close(layer(x), layer.mab1(x, hidden))


def test_a_norm_with_another_epsilon_is_that_norm() -> None:
    layer, x = _isab(norm="layer"), 1e-3 * torch.randn(3, 9, 8, dtype=torch.float64)
    before = layer(x)
    layer.mab1.ln0.eps = 10.0
    after = layer(x)
    assert not torch.allclose(before, after)
    layer.mab1.ln0 = nn.Identity()
    assert not torch.allclose(layer(x), after)


def test_without_its_hook_a_layer_is_fused_again() -> None:
    layer = _isab()
    handle = layer.mab0.fc_k.register_forward_hook(lambda module, inputs, out: None)
    assert layer.mab0.plain_weights() is None
    handle.remove()
    assert layer.mab0.plain_weights() is not None


READERS = {"python": modular.plain_parameters, "quickest": modular._quickest_reader()}


@pytest.mark.parametrize("options", [{}, {"ln": True}, {"norm": "rms", "bias": False}, {"ln": True, "ffn_dim": 16}])
@pytest.mark.parametrize("reader", READERS)
def test_plain_layers_are_read_in_the_order_of_the_weights(reader: str, options: dict[str, Any]) -> None:
    block = MAB(8, 8, 8, 2, **options)
    found = READERS[reader](block._modules, block._plain)
    expected = [weight for weight in block.weights if weight is not None]
    assert found is not None
    assert [id(weight) for weight in found] == [id(weight) for weight in expected]
    assert len(found) == len(list(block.parameters()))


NOT_PLAIN: dict[str, Callable[[MAB], object]] = {
    "another class": lambda block: setattr(block, "fc_k", Half(8, 8)),
    "no layer": lambda block: delattr(block, "fc_o"),
    "layer is None": lambda block: setattr(block, "fc_o", None),
    "forward hook": lambda block: block.ln1.register_forward_hook(lambda *_: None),
    "forward pre-hook": lambda block: block.fc_v.register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda block: block.fc_q.register_full_backward_hook(lambda *_: None),
    "backward pre-hook": lambda block: block.fc_q.register_full_backward_pre_hook(lambda *_: None),
    "other eps": lambda block: setattr(block.ln0, "eps", 1e-3),
    "no bias": lambda block: setattr(block.fc_q, "bias", None),
    "no weight": lambda block: block.fc_q.register_parameter("weight", None),
    "weight norm": lambda block: weight_norm(block.fc_q),
    "parametrised": lambda block: parametrize.register_parametrization(block.fc_k, "weight", Doubled()),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
@pytest.mark.parametrize("change", NOT_PLAIN)
@pytest.mark.parametrize("reader", READERS)
def test_a_layer_that_is_more_than_its_parameters_is_noticed(reader: str, change: str) -> None:
    block = MAB(8, 8, 8, 2, ln=True)
    read = READERS[reader]
    assert read(block._modules, block._plain) is not None
    NOT_PLAIN[change](block)
    assert read(block._modules, block._plain) is None


def test_a_bias_that_the_block_lacks_is_noticed_by_all_readers() -> None:
    block = MAB(8, 8, 8, 2, bias=False)
    block.fc_q.bias = nn.Parameter(torch.zeros(8))
    assert [read(block._modules, block._plain) for read in READERS.values()] == [None, None]


def test_it_is_said_once_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    layer, x = _isab(), torch.randn(3, 9, 8, dtype=torch.float64)
    layer.mab0.fc_q = LoRA(layer.mab0.fc_q)
    modular._log_once.cache_clear()
    with caplog.at_level(logging.INFO, "settx_fast"):
        layer(x)
        layer(x)
    (record,) = (r for r in caplog.records if "modules" in r.getMessage())
    assert "fc_q is a LoRA" in record.getMessage()


def test_a_forced_operator_and_plain_weights_are_refused_with_the_layer_s_name() -> None:
    layer, x = SAB(8, 8, 2, impl="blockwise"), torch.randn(1, 5, 8)
    layer.mab.fc_v.register_forward_hook(lambda module, inputs, out: None)
    with pytest.raises(ValueError, match="impl: 'blockwise' cannot take this call: fc_v has a hook"):
        layer(x)
    with pytest.raises(ValueError, match="weights: expected plain layers, but fc_v has a hook: call the module"):
        functional.attention_block(x, x, layer.mab.weights, layer.mab.spec)


def test_a_hooked_block_compiles_whole() -> None:
    layer, x = PMA(8, 2, 3), torch.randn(2, 5, 8)
    layer.mab.fc_k.register_forward_hook(lambda module, inputs, out: out * 2)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))


def test_autocast_decides_the_dtype_through_modules_too() -> None:
    block = MAB(8, 8, 8, 2, ln=True)
    block.fc_k.register_forward_hook(lambda module, inputs, out: None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert block(torch.randn(2, 3, 8), torch.randn(2, 5, 8)).dtype == torch.bfloat16
