"""What runs the original runs ours: the meta device, traces, scripts, exported programs, ONNX."""

import io
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

from settx_fast import ISAB, MAB, PMA, SAB, BlockSpec, DeepSet, SetTransformer, functional
from settx_fast.functional import Impl
from settx_fast.testing import TABULAR

MODULES: dict[str, Callable[[], nn.Module]] = {
    "SAB": lambda: SAB(8, 8, 2),
    "ISAB": lambda: ISAB(8, 8, 2, 4, ln=True),
    "ISAB, tabular": lambda: ISAB(8, 8, 2, 4, **{**TABULAR, "ffn_dim": 16}),
    "ISAB, rms": lambda: ISAB(8, 8, 2, 4, norm="rms", output_projection=True),
    "PMA": lambda: PMA(8, 2, 3),
    "SetTransformer": lambda: SetTransformer(8, 2, 3, num_inds=4, dim_hidden=8, num_heads=2, ln=True),
    "DeepSet": lambda: DeepSet(8, 2, 3, dim_hidden=8),
}


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_the_meta_device_gives_shapes(name: str, ragged: bool) -> None:
    model, x = MODULES[name](), torch.randn(2, 9, 8)
    expected = model(x)
    sets = {"lengths": torch.empty(2, dtype=torch.long, device="meta")} if ragged else {}
    out = model.to("meta")(x.to("meta"), **sets)
    assert (out.shape, out.dtype, out.device.type) == (expected.shape, expected.dtype, "meta")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("record", ["trace", "script"])
def test_a_saved_torchscript_takes_other_sizes_and_needs_nothing_of_ours(record: str, name: str) -> None:
    model, x = MODULES[name](), torch.randn(2, 9, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)  # of what a trace would take for constant
        recorded = torch.jit.script(model) if record == "script" else torch.jit.trace(model, (x,))
    file = io.BytesIO()
    torch.jit.save(recorded, file)
    assert "settx_fast::" not in str(recorded.inlined_graph)
    file.seek(0)
    loaded = torch.jit.load(file)
    for sizes in ((2, 9, 8), (3, 20, 8)):
        x = torch.randn(sizes)
        torch.testing.assert_close(loaded(x), model(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_script_of_a_mab_takes_two_sets_and_drops_weights_while_training() -> None:
    block = MAB(6, 5, 8, 2, dropout=0.5)
    scripted = torch.jit.script(block)
    query, key = torch.randn(2, 3, 6), torch.randn(2, 7, 5)
    assert not torch.equal(scripted(query, key), scripted(query, key))
    scripted.eval()
    torch.testing.assert_close(scripted(query, key), block.eval()(query, key))
    with pytest.raises(torch.jit.Error, match="AssertionError"):
        scripted(query, key, None, None, torch.tensor([1, 2]))


@pytest.mark.parametrize("name", ["ISAB, tabular", "SetTransformer"])
def test_an_exported_program_is_pytorch_s_own_and_takes_other_sizes(name: str) -> None:
    model = MODULES[name]()
    program = export(model, (torch.randn(2, 9, 8),), dynamic_shapes=({1: Dim("N", min=8)},))
    assert not [node for node in program.graph.nodes if "settx_fast" in str(node.target)]
    x = torch.randn(2, 20, 8)
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize("name", ["ISAB, tabular", "SetTransformer"])
def test_an_onnx_model_computes_the_same(name: str) -> None:
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    model = MODULES[name]().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(
            model, (torch.randn(2, 9, 8),), dynamo=True, dynamic_shapes=({1: Dim("N", min=8)},), verbose=False
        )
    assert program is not None
    onnx.checker.check_model(program.model_proto)
    evaluator, x = ReferenceEvaluator(program.model_proto), torch.randn(2, 20, 8)
    (out,) = evaluator.run(None, {program.model_proto.graph.input[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), model(x), rtol=1e-4, atol=1e-5)


BLOCKS: tuple[Impl | None, ...] = (None, "composed", "reference")


def _dropping(impl: Impl | None, share: float = 0.5) -> ISAB:
    torch.manual_seed(6)
    return ISAB(8, 8, 2, 4, dropout=share, impl=impl, dtype=torch.float64)


@pytest.mark.parametrize("impl", BLOCKS)
def test_dropout_is_for_training_only_and_repeats_with_its_seed(impl: Impl | None) -> None:
    layer, x = _dropping(impl), torch.randn(3, 9, 8, dtype=torch.float64)
    torch.manual_seed(1)
    first = layer(x)
    second = layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)
    torch.testing.assert_close(layer.eval()(x), _dropping(impl, 0.0)(x))


@pytest.mark.parametrize("impl", BLOCKS)
def test_dropout_keeps_the_mean_of_what_is_attended(impl: Impl | None) -> None:
    """Weights that stay are scaled up, each is dropped on its own, and so is each head's."""
    spec = BlockSpec(2, dropout=0.25)
    block = MAB(4, 4, 4, 2, dtype=torch.float64)
    w = block.weights._replace(w_o=torch.zeros(4, 4, dtype=torch.float64), b_o=torch.zeros(4, dtype=torch.float64))
    query, key = torch.randn(1, 1, 4, dtype=torch.float64), torch.randn(1, 6, 4, dtype=torch.float64)
    exact = functional.attention_block(query, key, w, BlockSpec(2), impl="reference")
    torch.manual_seed(2)
    many = functional.attention_block(query, key.expand(20_000, -1, -1), w, spec, impl=impl)
    attended = exact - torch.nn.functional.linear(query, w.w_q, w.b_q)
    error = (many.mean(0) - exact[0]).abs() / (many.std(0) / 20_000**0.5)
    assert attended.abs().max() > 0.01
    assert error.max() < 5  # standard deviations
    weights = functional.attention_weights(query, key, w, spec)[0, :, 0]  # (h, N)
    values = torch.nn.functional.linear(key, w.w_v, w.b_v)[0].unflatten(-1, (2, 2))  # (N, h, e)
    expected = 0.25 / 0.75 * torch.einsum("hn,nhe->he", weights.square(), values.square()).flatten()
    torch.testing.assert_close(many.var(0)[0], expected, rtol=0.1, atol=0)


def test_where_no_kernel_drops_weights_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    from settx_fast.attention import choice

    choice._log_once.cache_clear()
    layer, x = _dropping(None), torch.randn(3, 9, 8, dtype=torch.float64)
    with caplog.at_level("INFO", "settx_fast"):
        layer(x)
        layer(x)
    (record,) = caplog.records
    assert "weights of attention are dropped" in record.getMessage()
    with pytest.raises(ValueError, match="'blockwise' cannot take this call: weights of attention are dropped"):
        _dropping("blockwise")(x)
    _dropping("blockwise").eval()(x)


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5])
def test_a_share_that_is_none_is_named(share: float) -> None:
    with pytest.raises(ValueError, match=f"dropout: expected at least 0 and below 1, got {share}"):
        ISAB(8, 8, 2, 4, dropout=share)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: ISAB(8, 8, 2, 0), "num_inds: expected a whole number of at least 1, got 0"),
        (lambda: ISAB(8, -8, 2, 4), "dim_out: expected a whole number of at least 1, got -8"),
        (lambda: MAB(8.0, 8, 8, 2), r"dim_Q: expected a whole number of at least 1, got 8\.0"),
        (lambda: SAB(8, 0, 2), "dim_V: expected a whole number of at least 1, got 0"),
        (lambda: PMA(8, 2, 0), "num_seeds: expected a whole number of at least 1, got 0"),
    ],
)
def test_a_size_that_is_none_is_refused_by_name(build: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build()


def test_gradients_through_dropout_are_those_of_what_was_drawn() -> None:
    layer, x = _dropping(None), torch.randn(1, 4, 8, dtype=torch.float64, requires_grad=True)

    def drawn(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return layer(x)

    assert torch.autograd.gradcheck(drawn, (x,))


@pytest.mark.parametrize("options", [{}, TABULAR], ids=["original", "tabular"])
def test_attention_weights_are_those_that_the_block_reads_with(options: dict) -> None:
    torch.manual_seed(0)
    block = MAB(8, 8, 8, 2, dtype=torch.float64, **options)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    query, key = torch.randn(1, 3, 8, dtype=torch.float64), torch.randn(4, 7, 8, dtype=torch.float64)
    lengths, mask = torch.tensor([7, 0, 2, 5]), torch.rand(4, 7) < 0.5
    for sets, valid in (({"key_lengths": lengths}, torch.arange(7) < lengths[:, None]), ({"key_mask": mask}, mask)):
        read = functional.attention_weights(query, key, block.weights, block.spec, **sets)
        assert read.shape == (4, 2, 3, 7)
        assert not read.masked_select(~valid[:, None, None]).any()
        torch.testing.assert_close(read.sum(-1), valid.any(1).double()[:, None, None].expand(-1, 2, 3))
        # the derivative of the attended by a key's value is its weight: read it off the block
        w, spec = block.weights, block.spec
        v_read = torch.nn.functional.layer_norm(key, (8,), w.g0, w.b0) if options else key
        values = torch.nn.functional.linear(v_read, w.w_v, w.b_v).unflatten(-1, (2, 4)).transpose(1, 2)
        attended = (read @ values).transpose(1, 2).flatten(2)
        from settx_fast.attention.layers import finish, first_norm

        q = torch.nn.functional.linear(first_norm(query, w, spec), w.w_q, w.b_q)
        out = finish(query if options else q, attended, w, spec)
        torch.testing.assert_close(out, block(query, key, **sets))


def test_attention_weights_of_masked_and_of_jagged_queries() -> None:
    block, mask = MAB(8, 8, 8, 2), torch.tensor([[False, True, True], [True, False, False]])
    sets = [torch.randn(2, 8), torch.randn(1, 8)]
    padded = torch.full((2, 3, 8), torch.nan)
    padded[mask] = torch.cat(sets)
    key = torch.randn(2, 4, 8)
    read = functional.attention_weights(padded, key, block.weights, block.spec, query_mask=mask)
    jagged = torch.nested.nested_tensor(sets, layout=torch.jagged)
    packed = functional.attention_weights(jagged, key, block.weights, block.spec)
    assert packed.shape == (2, 2, 2, 4)
    torch.testing.assert_close(read[0, :, 1:], packed[0])
    torch.testing.assert_close(read[1, :, :1], packed[1, :, :1])
    assert not read.transpose(1, 2)[~mask].any()
    assert not packed[1, :, 1].any()
