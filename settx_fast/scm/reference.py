"""The sampler's oracle: Philox, the transforms and the evaluation of tables in NumPy and float64. Slow and obvious."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from settx_fast.scm.batch import MOST_ATTEMPTS, Batch
from settx_fast.scm.mechanisms import FUNCTIONS, MECHANISMS
from settx_fast.scm.noises import NOISE_EFFECTS, NOISES

Floats = NDArray[np.float64]
Words = NDArray[np.uint32]

LANES = 16
"""Row r takes word (r mod 64) div 16 of Philox counter 16 · (r div 64) + r mod 16."""


def philox(counters: Words, seed: int) -> Words:
    """Philox4x32-10 of counters (..., 4) uint32 (Salmon et al. 2011); the key is the seed, low word first."""
    mask = np.uint64(0xFFFFFFFF)
    x0, x1, x2, x3 = np.moveaxis(counters.astype(np.uint64), -1, 0)
    key0, key1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        product0, product1 = np.uint64(0xD2511F53) * x0, np.uint64(0xCD9E8D57) * x2
        x0 = (product1 >> np.uint64(32)) ^ x1 ^ np.uint64(key0)
        x2 = (product0 >> np.uint64(32)) ^ x3 ^ np.uint64(key1)
        x1, x3 = product1 & mask, product0 & mask
        key0, key1 = (key0 + 0x9E3779B9) & 0xFFFFFFFF, (key1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([x0, x1, x2, x3], axis=-1).astype(np.uint32)


def noise_words(seed: int, dataset: int, environment: int, variable: int, num_rows: int, purpose: int = 0) -> Words:
    """(blocks, 4, LANES): the words of rows 64·block + 16·j + lane of one variable in one environment."""
    blocks = -(-num_rows // 64)
    counters = np.empty((blocks * LANES, 4), np.uint32)
    counters[:, 0] = np.arange(blocks * LANES)
    counters[:, 1] = variable | purpose << 24
    counters[:, 2] = dataset & 0xFFFFFFFF
    counters[:, 3] = dataset >> 32 | environment << 16
    return philox(counters, seed).reshape(blocks, LANES, 4).swapaxes(1, 2)


def uniform(words: Words) -> Floats:
    """(word + ½) / 2³²: a uniform number in (0, 1)."""
    return (words.astype(np.float64) + 0.5) / 2**32


def signed_uniform(words: Words) -> tuple[NDArray[np.int64], Floats]:
    """A sign (−1, 1) and a uniform number in (0, 1) from every word: the odd number that it is next to, over 2³¹."""
    odd = (words | np.uint32(1)).view(np.int32).astype(np.int64)
    return np.sign(odd), np.abs(odd) / 2**31


def half_turn(words: Words) -> Floats:
    """Angles from −π/2 to π/2."""
    return words.view(np.int32) / 2**32 * np.pi


def noise(
    kind: str,
    parameters: Sequence[float],
    seed: int,
    dataset: int,
    environment: int,
    variable: int,
    num_rows: int,
    purpose: int = 0,
) -> Floats:
    """(num_rows,): standardised noise of one variable in one environment."""
    words = noise_words(seed, dataset, environment, variable, num_rows, purpose)
    if kind == "gaussian":  # Box & Muller: words 0, 1 and words 2, 3 make two normals each
        sign, u = signed_uniform(words[:, 0::2])
        radius, angle = sign * np.sqrt(-2 * np.log(u)), half_turn(words[:, 1::2])
        result = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)
    elif kind == "laplace":
        sign, u = signed_uniform(words)
        result = sign * -np.log(u) / np.sqrt(2)
    elif kind == "uniform":
        result = words.view(np.int32) / 2**31 * np.sqrt(3)
    elif kind == "student_t":  # Bailey 1994
        sign, u = signed_uniform(words)
        angle = half_turn(noise_words(seed, dataset, environment, variable, num_rows, purpose + 1))
        degrees = parameters[0]
        result = sign * np.sqrt((degrees - 2) * (u ** (-2 / degrees) - 1)) * np.cos(angle)
    elif kind == "exponential":
        result = -np.log(uniform(words)) - 1
    elif kind == "gumbel":
        result = (-np.log(-np.log1p(-uniform(words))) - np.euler_gamma) * np.sqrt(6) / np.pi
    elif kind == "logistic":
        sign, u = signed_uniform(words)
        result = sign * -np.log(u / (2 - u)) * np.sqrt(3) / np.pi
    elif kind == "clipped_cauchy":
        with np.errstate(divide="ignore"):
            result = np.clip(1 / np.tan(half_turn(words)), -parameters[0], parameters[0]) * parameters[1]
    elif kind == "mixture":
        second = uniform(noise_words(seed, dataset, environment, variable, num_rows, purpose + 1)) < parameters[0]
        size = 64 * len(words)
        normal = noise("gaussian", (), seed, dataset, environment, variable, size, purpose).reshape(words.shape)
        first_mean, first_scale, mean, scale = parameters[1:5]
        result = np.where(second, mean + scale * normal, first_mean + first_scale * normal)
    else:
        raise ValueError(f"kind: expected one of {NOISES}, got {kind!r}")
    return result.reshape(-1)[:num_rows]


def _exponent(u: float) -> float:
    return float(4 ** (2 * u - 1))


def function_of(header: float) -> Callable[[Floats], Floats]:
    """The function of a mechanism's header: its place in `FUNCTIONS`, and as a fraction what was drawn for it."""
    place, drawn = divmod(header, 1)
    return lambda x: apply(FUNCTIONS[int(place)], x, drawn)


def apply(name: str, x: Floats, drawn: float = 0.0) -> Floats:
    """A function by its name in `FUNCTIONS`, with what was drawn for it."""
    match name:
        case "tanh":
            return np.tanh(x)
        case "relu":
            return np.maximum(x, 0)
        case "leaky_relu":
            return np.where(x > 0, x, 0.01 * x)
        case "sigmoid":
            return np.exp(-np.logaddexp(0, -x))
        case "sine":
            return np.sin(x)
        case "identity":
            return x
        case "square":
            return x * x
        case "abs":
            return np.abs(x)
        case "bump":
            return np.exp(-x * x)
        case "log":
            return np.sign(x) * np.log1p(np.abs(x))
        case "sign":
            return np.sign(x)
        case "step":
            return (x > 0).astype(np.float64)
        case "sawtooth":
            return np.where(np.abs(x) < 2**22, x - np.rint(x), 0.0)
        case "power":
            return np.sign(x) * np.abs(x) ** _exponent(drawn)
        case "warp":
            first, second = divmod(drawn * 256, 1)
            share = apply("sigmoid", x)
            return 1 - (1 - share ** _exponent(first / 256)) ** _exponent(second)
    raise ValueError(f"function: expected one of {FUNCTIONS}, got {name!r}")


def unpack_mlp(parameters: Floats, num_parents: int) -> tuple[float, list[tuple[Floats, Floats]], Floats]:
    """Header of the function, [(W, b)] of the hidden layers, and c, from the start of an MLP's parameters."""
    hidden, layers = int(parameters[0]), int(parameters[1])
    position, result, width = 3, [], num_parents
    for _ in range(layers):
        W = parameters[position : position + hidden * width].reshape(hidden, width)
        b = parameters[position + hidden * width :][:hidden]
        position, width = position + hidden * width + hidden, hidden
        result.append((W, b))
    return float(parameters[2]), result, parameters[position : position + hidden]


def evaluate(batch: Batch, dataset: int) -> Floats:
    """(R, V) float64: the rows of one dataset of `batch` from its tables and its seed, as they are seen."""
    table = tables_of(batch, dataset)
    values = np.zeros_like(table["values"], np.float64)
    for k in range(int(table["num_environments"])):
        rows = table["environment"] == k
        x = accepted_rows(table, k, int(rows.sum()), int(batch.seed))[0]
        for v in range(int(table["num_variables"])):
            x[:, v] = measured(table, k, v, x[:, v], int(batch.seed))
        lost = missing(table, k, x, int(batch.seed))
        values[rows] = np.where(lost, np.nan, x)
    unit = table["column_gain"].astype(np.float64)
    return np.where(unit > 0, (values - table["column_centre"].astype(np.float64)) * unit, values)


def environment_rows(table: dict[str, NDArray], k: int, num_rows: int, seed: int, attempt: int = 0) -> Floats:
    """(num_rows, V): what the SCM of environment k gives at an attempt."""
    x = np.zeros((num_rows, len(table["order"])))
    for v in table["order"][: int(table["num_variables"])]:
        x[:, v] = variable(table, k, int(v), x, seed, attempt=attempt)
        if not table["hard"][k, v]:
            x[:, v] = (x[:, v] - float(table["centre"][v])) * float(table["gain"][v])
    return x


def accepted_rows(table: dict[str, NDArray], k: int, num_rows: int, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """(num_rows, V) rows of environment k, each the first attempt that is accepted, and (num_rows,) which one it is."""
    result, attempts = environment_rows(table, k, num_rows, seed), np.zeros(num_rows, np.int64)
    pending = np.full(num_rows, bool(np.any(table["accept_slope"][k])))
    x = result
    for attempt in range(MOST_ATTEMPTS + 1):
        if not pending.any():
            break
        x = environment_rows(table, k, num_rows, seed, attempt)
        word = noise_words(seed, int(table["index"]), k, attempt << 12, num_rows, purpose=23).reshape(-1)[:num_rows]
        chance = np.ones(num_rows)
        for slope, intercept, v in zip(
            table["accept_slope"][k], table["accept_intercept"][k], table["accept_variable"][k], strict=True
        ):
            chance *= logistic(x[:, v], float(slope), float(intercept)) if slope else 1.0
        taken = pending & ((uniform(word) <= chance) | (attempt == MOST_ATTEMPTS))
        result[taken], attempts[taken] = x[taken], attempt
        pending &= ~taken
    return result, attempts


def measured(table: dict[str, NDArray], k: int, v: int, x: Floats, seed: int, purpose: int = 24) -> Floats:
    """What is seen of values x (R,) of variable v: with its error, and as a level if it has levels."""
    if scale := float(table["error_scale"][v]):
        x = x + scale * noise("gaussian", (), seed, int(table["index"]), k, v, len(x), purpose)
    levels = int(table["num_levels"][v])
    if levels == 0:
        return x
    place = (x[:, None] > table["thresholds"][v, : levels - 1].astype(np.float64)).sum(1)
    return table["codes"][v].astype(np.float64)[place]


def missing(table: dict[str, NDArray], k: int, x: Floats, seed: int) -> NDArray[np.bool_]:
    """(R, V): which of the seen values x (R, V) of environment k are lost."""
    lost = np.zeros(x.shape, bool)
    for v in np.flatnonzero(table["loss_rate"] > 0):
        word = noise_words(seed, int(table["index"]), k, int(v), len(x), purpose=25).reshape(-1)[: len(x)]
        cause = x[:, table["loss_cause"][v]]
        lost[:, v] = uniform(word) <= logistic(cause, float(table["loss_slope"][v]), float(table["loss_intercept"][v]))
    return lost


def logistic(x: Floats, slope: float, intercept: float) -> Floats:
    """1 / (1 + exp(−slope · x − intercept))."""
    return apply("sigmoid", slope * x + intercept)


def pilot(batch: Batch, dataset: int) -> tuple[Floats, Floats, Floats]:
    """Pilot rows (sources, rows, V), and centre and gain (V,) of internal standardisation if that is asked for.

    4 blocks of 64 rows, in equal numbers from all sources, one at least of each.
    """
    table = tables_of(batch, dataset)
    sources = int((~table["is_target_environment"][: int(table["num_environments"])]).sum())
    rows = 64 * max(4 // sources, 1)
    x = np.zeros((sources, rows, len(table["order"])))
    centre, gain = np.zeros(len(table["order"])), np.zeros(len(table["order"]))
    for v in table["order"][: int(table["num_variables"])]:
        for k in range(sources):
            x[k, :, v] = variable(table, k, int(v), x[k], int(batch.seed), purpose=2)
        gain[v] = 1.0
        if batch.prior.standardisation != "internal":
            continue
        free = ~table["hard"][:sources, v]
        if free.any():
            centre[v] = x[free, :, v].mean()
        deviation = x[free, :, v].std() if free.any() else 0.0
        gain[v] = 1 / deviation if deviation > 1e-6 * abs(centre[v]) else 1.0
        x[free, :, v] = (x[free, :, v] - centre[v]) * gain[v]
    return x, centre, gain


def variable(
    table: dict[str, NDArray], k: int, v: int, x: Floats, seed: int, purpose: int = 0, attempt: int = 0
) -> Floats:
    """(R,): variable v in environment k before its last step, from its parents in x (R, V)."""
    kind, shape = NOISES[table["noise_kind"][v]], table["noise_parameters"][v].astype(np.float64)
    place = v | attempt << 12
    n = float(table["noise_scale"][k, v]) * noise(kind, shape, seed, int(table["index"]), k, place, len(x), purpose)
    parents = [] if table["hard"][k, v] else parents_in_order(table, v)
    z = x[:, parents] * table["weights"][k, parents, v].astype(np.float64)
    name, own = MECHANISMS[table["mechanism"][v]], table["mechanism_parameters"][table["mechanism_offset"][k, v] :]
    base = float(table["bias"][k, v]) + mechanism(name, own, z)
    result = base + noise_factor(NOISE_EFFECTS[table["noise_effect"][v]], base, z) * n
    if name == "categories" and not table["hard"][k, v]:
        return categorised(own, result)
    return function_of(own[0])(result) if name == "post_nonlinear" and parents else result


def categorised(parameters: Floats, x: Floats) -> Floats:
    """(R,): the value of the level that every x falls into."""
    levels = int(parameters[0])
    return parameters[levels:][(x[:, None] > parameters[1:levels]).sum(1)]


def tables_of(batch: Batch, dataset: int) -> dict[str, NDArray]:
    """The tables of one dataset by name, and all mechanism parameters in float64."""
    parameters = batch.mechanism_parameters.cpu().numpy().astype(np.float64)
    return {name: getattr(batch, name)[dataset].cpu().numpy() for name in _PER_DATASET} | {
        "mechanism_parameters": parameters
    }


_PER_DATASET = (
    "values", "environment", "index", "num_variables", "num_environments", "is_target_environment", "adjacency",
    "order", "weights", "bias", "noise_scale", "hard", "noise_kind", "noise_parameters", "noise_effect", "mechanism",
    "mechanism_offset", "centre", "gain", "column_centre", "column_gain", "accept_variable", "accept_slope",
    "accept_intercept", "error_scale", "num_levels", "thresholds", "codes", "loss_cause", "loss_rate", "loss_slope",
    "loss_intercept",
)  # fmt: skip


def parents_in_order(table: dict[str, NDArray], v: int) -> list[int]:
    """Parents of v in the topological order, which is the order of the inputs of its mechanism."""
    return [int(p) for p in table["order"][: int(table["num_variables"])] if table["adjacency"][p, v]]


def noise_factor(effect: str, base: Floats, z: Floats) -> Floats:
    """(R,): what multiplies the noise of a variable with weighted parents z (R, parents) and noiseless value `base`."""
    if z.shape[1] == 0 or effect == "additive":
        return np.ones(len(z))
    return base if effect == "multiplicative" else 2 * apply("sigmoid", z.sum(1))


def mechanism(name: str, parameters: Floats, z: Floats) -> Floats:
    """(R,): f(z) of the weighted parents z (R, parents), for a name in `MECHANISMS` and its parameters."""
    count = z.shape[1]
    if count == 0:
        return np.zeros(len(z))
    match name:
        case "linear" | "post_nonlinear" | "categories":
            return z.sum(1)
        case "mlp" | "fourier":
            header, layers, c = unpack_mlp(parameters, count)
            for W, b in layers:
                z = function_of(header)(z @ W.T + b)
            return z @ c
        case "sum":
            return function_of(parameters[0])(z).sum(1)
        case "product":
            return function_of(parameters[0])(z).prod(1)
        case "quadratic":
            c = np.zeros((count, count))
            c[np.triu_indices(count)] = parameters[: count * (count + 1) // 2]
            return z.sum(1) + np.einsum("rp,pq,rq->r", z, c, z)
        case "trees":
            return sum((tree(z) for tree in unpack_trees(parameters)), np.zeros(len(z)))
        case "clusters":
            scores, values = cluster_scores(parameters, z)
            likely = np.exp(scores - scores.max(1, keepdims=True))
            return (likely / likely.sum(1, keepdims=True)) @ values
        case "factors":
            return np.prod([mechanism(kind, own, z) for kind, own in unpack_factors(parameters)], axis=0)
    raise ValueError(f"name: expected one of {MECHANISMS}, got {name!r}")


def unpack_factors(parameters: Floats) -> list[tuple[str, Floats]]:
    """The name in `MECHANISMS` and the parameters of every factor of a product."""
    code, size = parameters[:2].astype(int)
    if size < 0:
        return [(MECHANISMS[code], parameters[2:])]
    return [(MECHANISMS[code], parameters[2 : 2 + size]), *unpack_factors(parameters[2 + size :])]


def cluster_scores(parameters: Floats, z: Floats) -> tuple[Floats, Floats]:
    """(R, clusters) how likely z (R, parents) is of every cluster, as a logarithm but for a constant, and its value."""
    number, count = int(parameters[0]), z.shape[1]
    log_widths, _, values = parameters[1 : 1 + 3 * number].reshape(3, number)
    centres = parameters[1 + 3 * number :][: number * count].reshape(number, count)
    distance = np.square(z[:, None] - centres).sum(2)
    return -log_widths - distance / (2 * np.exp(2 * log_widths)), values


def unpack_trees(parameters: Floats) -> list[Callable[[Floats], Floats]]:
    """The trees as functions of z (R, parents)."""
    number, depth = int(parameters[0]), int(parameters[1])
    size = 2 * depth + 2**depth

    def as_function(tree: Floats) -> Callable[[Floats], Floats]:
        parents, thresholds = tree[0 : 2 * depth : 2].astype(int), tree[1 : 2 * depth : 2]
        place = 2 ** np.arange(depth)[::-1]
        return lambda z: tree[2 * depth :][(z[:, parents] > thresholds) @ place]

    return [as_function(parameters[2 + t * size : 2 + (t + 1) * size]) for t in range(number)]
