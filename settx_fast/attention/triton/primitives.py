"""What the stages share on a tile of rows: loads, products, norms, activations and the layers after attention.

Tiles are (rows, features), features padded to a power of two. Columns past the real width hold zeros, and every
function here keeps them so.
"""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl

from settx_fast.attention.block import BlockWeights

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
SQRT_HALF: tl.constexpr = tl.constexpr(0.7071067811865476)
INV_SQRT_2PI: tl.constexpr = tl.constexpr(0.3989422804014327)
# Triton's interpreter knows no assembly
INTERPRETED: tl.constexpr = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


def matrix_precision(dtype: torch.dtype) -> str:
    """How tl.dot multiplies `dtype`: fp32 as PyTorch's own switch says, every other type exactly."""
    exact = dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest"
    return "ieee" if exact else "tf32"


def padded(width: int) -> int:
    """The power of two ≥ 16 that holds `width`: sides of tl.dot are no smaller."""
    return max(16, triton.next_power_of_2(width))


def contiguous(weights: BlockWeights) -> BlockWeights:
    """The weights in row-major order."""
    return BlockWeights(*(None if w is None else w.contiguous() for w in weights))  # type: ignore[arg-type]


@triton.jit
def load_tile(ptr, row_offsets, columns, row_valid, column_valid):
    """Elements ptr[row_offsets[i] + columns[j]] as (rows, columns), zero where not valid."""
    pointers = ptr + row_offsets[:, None] + columns[None, :]
    return tl.load(pointers, mask=row_valid[:, None] & column_valid[None, :], other=0.0)


@triton.jit
def store_tile(ptr, row_offsets, columns, row_valid, column_valid, tile):
    """The inverse of load_tile, in the type of ptr."""
    pointers = ptr + row_offsets[:, None] + columns[None, :]
    tl.store(pointers, tile.to(ptr.dtype.element_ty), mask=row_valid[:, None] & column_valid[None, :])


@triton.jit
def load_weight(ptr, inputs, outputs, input_valid, output_valid, IN: tl.constexpr):
    """A block of a weight (OUT, IN), transposed for x @ weight: (inputs, outputs), zero where not valid."""
    pointers = ptr + outputs[None, :] * IN + inputs[:, None]
    return tl.load(pointers, mask=input_valid[:, None] & output_valid[None, :], other=0.0)


@triton.jit
def load_vector(ptr, columns, column_valid):
    """ptr[columns] in fp32, zero where not valid and where ptr is None."""
    if ptr is None:
        vector = tl.zeros(columns.shape, tl.float32)
    else:
        vector = tl.load(ptr + columns, mask=column_valid, other=0.0).to(tl.float32)
    return vector


@triton.jit(do_not_specialize=["size"])
def cast_kernel(source_ptr, target_ptr, size, BLOCK: tl.constexpr):
    """A vector in another type."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(source_ptr + i, mask=i < size, other=0.0)
    tl.store(target_ptr + i, values.to(target_ptr.dtype.element_ty), mask=i < size)


@triton.jit(do_not_specialize=["size"])
def add_kernel(total_ptr, part_ptr, size, BLOCK: tl.constexpr):
    """Add a vector to another."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(total_ptr + i, mask=i < size, other=0.0).to(tl.float32)
    total += tl.load(part_ptr + i, mask=i < size, other=0.0).to(tl.float32)
    tl.store(total_ptr + i, total.to(total_ptr.dtype.element_ty), mask=i < size)


@triton.jit
def reciprocal(x):
    """1 / x, one instruction that errs by a unit in the last place."""
    if INTERPRETED:
        y = 1.0 / x
    else:
        y = tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    return y


@triton.jit
def prefetch(pointers):
    """Bring what lies at the pointers to the L2 cache."""
    if not INTERPRETED:
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [pointers], dtype=tl.int32, is_pure=False, pack=1
        )


@triton.jit
def multiply_add(a, b, acc, PRECISION: tl.constexpr):
    """acc + a b, a rounded to the type of b, accumulated in fp32."""
    return tl.dot(operand(a.to(b.dtype), PRECISION), operand(b, PRECISION), acc, input_precision=PRECISION)


@triton.jit
def multiply(a, b, PRECISION: tl.constexpr):
    """a b in fp32."""
    return tl.dot(operand(a.to(b.dtype), PRECISION), operand(b, PRECISION), input_precision=PRECISION)


@triton.jit
def operand(x, PRECISION: tl.constexpr):
    """x as tensor cores should read it: of fp32 they would cut bits off. The interpreter reads all of them."""
    if PRECISION == "tf32" and not INTERPRETED:
        x = round_to_tf32(x)
    return x


@triton.jit
def round_to_tf32(x):
    """fp32 rounded to 11 significant bits, ties away from zero; infinities and NaN stay what they are."""
    bits = (x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
    return tl.where(x == x, bits.to(tl.float32, bitcast=True), x)


@triton.jit
def pack_halves(high, low, dtype: tl.constexpr):
    """Two fp32 numbers, rounded to a type of 16 bits, as one int32."""
    if INTERPRETED:
        top = high.to(dtype).to(tl.int16, bitcast=True).to(tl.int32) << 16
        packed = top | (low.to(dtype).to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF)
    elif dtype == tl.bfloat16:
        packed = tl.inline_asm_elementwise(
            "cvt.rn.bf16x2.f32 $0, $1, $2;", "=r,f,f", [high, low], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        packed = tl.inline_asm_elementwise(
            "cvt.rn.f16x2.f32 $0, $1, $2;", "=r,f,f", [high, low], dtype=tl.int32, is_pure=True, pack=1
        )
    return packed


@triton.jit
def unpack_high(packed, dtype: tl.constexpr):
    """The upper number of `pack_halves` in fp32."""
    if dtype == tl.bfloat16:
        high = (packed & -65536).to(tl.float32, bitcast=True)
    else:
        high = (packed >> 16).to(tl.int16).to(dtype, bitcast=True).to(tl.float32)
    return high


@triton.jit
def unpack_low(packed, dtype: tl.constexpr):
    """The lower number of `pack_halves` in fp32."""
    if dtype == tl.bfloat16:
        low = (packed << 16).to(tl.float32, bitcast=True)
    else:
        low = packed.to(tl.int16).to(dtype, bitcast=True).to(tl.float32)
    return low


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    """relu(z) or z Φ(z), the exact GELU."""
    return tl.maximum(z, 0.0) if ACTIVATION == "relu" else z * (0.5 + 0.5 * tl.erf(z * SQRT_HALF))


@triton.jit
def log2(x):
    """log₂ x, one instruction that errs by 2⁻²²."""
    if INTERPRETED:
        y = tl.log2(x)
    else:
        y = tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    return y


@triton.jit
def fast_gelu(z):
    """GELU to 5e-5."""
    return z * fast_normal_cdf(z)


@triton.jit
def fast_normal_cdf(z):
    """Φ(z) to 5e-5: Φ(z) − ½ as z times a polynomial of z², Φ held between 0 and 1, on multiply-adds alone."""
    u = tl.minimum(z * z, 20.25)
    p = 3.00000779e-11 * u - 3.28391299e-09
    p = p * u + 1.58025742e-07
    p = p * u - 4.43168509e-06
    p = p * u + 8.12097173e-05
    p = p * u - 0.00103625333
    p = p * u + 0.00958065364
    p = p * u - 0.0659772702
    p = p * u + 0.398708574
    if INTERPRETED:
        share = tl.minimum(tl.maximum(z * p + 0.5, 0.0), 1.0)
    else:
        share = tl.inline_asm_elementwise(
            "fma.rn.sat.f32 $0, $1, $2, 0f3F000000;", "=f,f,f", [z, p], dtype=tl.float32, is_pure=True, pack=1
        )
    return share


@triton.jit
def activation_slope(z, ACTIVATION: tl.constexpr):
    """The derivative of activate at z; 0 at the kink of relu."""
    if ACTIVATION == "relu":
        slope = tl.where(z > 0.0, 1.0, 0.0)
    else:
        slope = 0.5 + 0.5 * tl.erf(z * SQRT_HALF) + z * normal_density(z)
    return slope


@triton.jit
def normal_density(z):
    """The derivative of Φ."""
    return INV_SQRT_2PI * tl.exp2(z * z * (-0.5 * LOG2_E))


@triton.jit
def activate_with_slope(z, ACTIVATION: tl.constexpr):
    """relu or GELU and its derivative, that of GELU to 5e-5, which half precision does not see."""
    if ACTIVATION == "relu":
        active, slope = tl.maximum(z, 0.0), tl.where(z > 0.0, 1.0, 0.0)
    else:
        share = fast_normal_cdf(z)
        active, slope = z * share, share + z * normal_density(z)
    return active, slope


@triton.jit
def standardise(x, WIDTH: tl.constexpr, NORM: tl.constexpr, EPS: tl.constexpr):
    """Rows of x without mean (layer) at unit mean square (layer, rms), and the factor (rows,) that did it."""
    if NORM == "layer":
        inside = tl.arange(0, x.shape[1]) < WIDTH
        x = tl.where(inside[None, :], x - tl.sum(x, 1)[:, None] / WIDTH, 0.0)
    factor = tl.rsqrt(tl.sum(x * x, 1) / WIDTH + EPS)
    return x * factor[:, None], factor


@triton.jit
def normalise(x, gain_ptr, bias_ptr, WIDTH: tl.constexpr, NORM: tl.constexpr, EPS: tl.constexpr):
    """Layer or RMS norm of the rows; x itself under "none"."""
    if NORM != "none":
        columns = tl.arange(0, x.shape[1])
        inside = columns < WIDTH
        x, _ = standardise(x, WIDTH, NORM, EPS)
        x = x * load_vector(gain_ptr, columns, inside)[None, :] + load_vector(bias_ptr, columns, inside)[None, :]
    return x


@triton.jit
def normalise_backward(grad, standard, factor, gain_ptr, WIDTH: tl.constexpr, NORM: tl.constexpr):
    """Gradient of normalise's input, from its output's and from what standardise returned."""
    columns = tl.arange(0, grad.shape[1])
    inside = columns < WIDTH
    grad = grad * load_vector(gain_ptr, columns, inside)[None, :]
    grad -= standard * (tl.sum(grad * standard, 1)[:, None] / WIDTH)
    if NORM == "layer":
        # standard has mean zero: the two projections do not disturb each other
        grad = tl.where(inside[None, :], grad - tl.sum(grad, 1)[:, None] / WIDTH, 0.0)
    return grad * factor[:, None]


@triton.jit
def staged_multiply(
    ptr, offsets, valid, w_ptr, in_stride, out_stride, outputs, output_valid,
    IN: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Rows at ptr + offsets, IN wide, times a weight too large for the registers: chunk of columns by chunk, in fp32.

    The program itself stored the rows; the barriers let all of its threads see them, and write them again afterwards.
    """
    tl.debug_barrier()
    y = tl.zeros((offsets.shape[0], outputs.shape[0]), tl.float32)
    for first in range(0, IN, CHUNK):
        inputs = first + tl.arange(0, CHUNK)
        x = load_tile(ptr, offsets, inputs, valid, inputs < IN)
        weight = tl.load(
            w_ptr + inputs[:, None] * in_stride + outputs[None, :] * out_stride,
            mask=(inputs < IN)[:, None] & output_valid[None, :],
            other=0.0,
        )
        y = multiply_add(x, weight, y, PRECISION)
    tl.debug_barrier()
    return y


@triton.jit
def feed_forward(x, stage_ptr, offsets, valid, w, block: tl.constexpr, tiles: tl.constexpr):
    """act(x Woᵀ + bo), or act(x Woᵀ + bo) Wo2ᵀ + bo2 in chunks of tiles.hidden columns of F: (rows, width) in fp32.

    Where tiles.staged, the valid rows pass through memory at stage_ptr + offsets.
    """
    D: tl.constexpr = block.D
    ACTIVATION: tl.constexpr = block.spec.activation
    PRECISION: tl.constexpr = block.precision
    CHUNK: tl.constexpr = tiles.hidden
    columns = tl.arange(0, x.shape[1])
    inside = columns < D
    x = x.to(w.w_o.dtype.element_ty)
    if block.spec.ffn_dim is None:
        if tiles.staged:
            store_tile(stage_ptr, offsets, columns, valid, inside, x)
            z = staged_multiply(stage_ptr, offsets, valid, w.w_o, 1, D, columns, inside, D, CHUNK, PRECISION)
        else:
            z = multiply(x, load_weight(w.w_o, columns, columns, inside, inside, D), PRECISION)
        y = activate(z + load_vector(w.b_o, columns, inside)[None, :], ACTIVATION)
    else:
        F: tl.constexpr = block.spec.ffn_dim
        y = tl.zeros(x.shape, tl.float32) + load_vector(w.b_o2, columns, inside)[None, :]
        for first in range(0, F, CHUNK):
            hidden = first + tl.arange(0, CHUNK)
            weight = load_weight(w.w_o, columns, hidden, inside, hidden < F, D)
            z = multiply(x, weight, PRECISION) + load_vector(w.b_o, hidden, hidden < F)[None, :]
            weight2 = load_weight(w.w_o2, hidden, columns, hidden < F, inside, F)
            y = multiply_add(activate(z, ACTIVATION), weight2, y, PRECISION)
    return y


@triton.jit
def finish(o, stage_ptr, offsets, valid, w, block: tl.constexpr, tiles: tl.constexpr):
    """What follows the residual of attention on a tile o (rows, width) in fp32: norms and feed-forward layers."""
    D: tl.constexpr = block.D
    NORM: tl.constexpr = block.spec.norm
    EPS: tl.constexpr = block.spec.norm_eps
    if block.spec.norm_first:
        y = o + feed_forward(
            normalise(o, w.g1, w.b1, D, NORM, EPS), stage_ptr, offsets, valid, w, block, tiles
        )  # fmt: skip
    else:
        o = normalise(o, w.g0, w.b0, D, NORM, EPS)
        y = o + feed_forward(o, stage_ptr, offsets, valid, w, block, tiles)
        y = normalise(y, w.g1, w.b1, D, NORM, EPS)
    return y
