"""How far float32 rounding may take the sampler's rows from the oracle's, by propagating magnitudes along the graph."""

import numpy as np

from settx_fast import scm
from settx_fast.scm import reference
from settx_fast.scm.mechanisms import FUNCTIONS, MECHANISMS
from settx_fast.scm.noises import NOISE_EFFECTS, NOISES

U = 2.0**-24
NOISE_ERROR = 1000 * U  # of 1 + |n|: the tangent of a clipped Cauchy near its limit is the worst

Bound = tuple[np.ndarray, np.ndarray]
"""What a quantity's magnitude is at most, and its error."""


def rounding_bound(batch: scm.Batch, b: int) -> np.ndarray:
    """(R, V): a sum of n terms errs by (n + 2) u of its magnitudes, a function by 8 u; infinite near a step."""
    table = reference.tables_of(batch, b)
    parameters, unit = table["mechanism_parameters"], table["column_gain"].astype(np.float64)
    centre = np.where(unit > 0, table["column_centre"], 0)
    exact, bound = reference.evaluate(batch, b), np.zeros(table["values"].shape)
    exact = exact / np.where(unit > 0, unit, 1) + centre  # in the units of the SCM
    for k in range(int(table["num_environments"])):
        rows = table["environment"] == k
        x, error = exact[rows], np.zeros((rows.sum(), bound.shape[1]))
        for v in table["order"][: int(table["num_variables"])]:
            error[:, v] = _variable(batch, table, parameters, k, int(v), x, error)
        bound[rows] = error
    if np.any((unit != 1) & (unit > 0)):
        bound = (bound + 2 * U * (np.abs(exact) + np.abs(centre))) * unit
    return bound


def _variable(batch, table, parameters, k, v, x, error) -> np.ndarray:
    parents = [] if table["hard"][k, v] else reference.parents_in_order(table, v)
    weights = table["weights"][k, parents, v].astype(np.float64)
    z, error = x[:, parents] * weights, error[:, np.array(parents, int)]
    error = np.where(weights == 0, 0.0, error) * np.abs(weights) + U * np.abs(z)  # that of an edge that is cut may be ∞
    name, own = MECHANISMS[table["mechanism"][v]], parameters[table["mechanism_offset"][k, v] :]
    _, predictor = _sum(np.abs(z), error)
    bias = abs(float(table["bias"][k, v]))
    size, error = _mechanism(name, own, z, error)
    size, error = size + bias, error + 4 * U * (size + bias)

    kind, shape = NOISES[table["noise_kind"][v]], table["noise_parameters"][v].astype(np.float64)
    scale = float(table["noise_scale"][k, v])
    noise = reference.noise(kind, shape, batch.seed, int(table["index"]), k, v, len(x))
    n = np.abs(noise)
    noise_error = scale * NOISE_ERROR * (1 + n)
    effect = NOISE_EFFECTS[table["noise_effect"][v]] if parents else "additive"
    if effect == "multiplicative":
        size, error = size * (1 + scale * n), error * (1 + scale * n) + size * noise_error
    else:
        modulation = scale * n * (predictor + 8 * U) if effect == "heteroscedastic" else 0
        size, error = size + 2 * scale * n, error + 2 * noise_error + modulation
    if name == "post_nonlinear" and parents:
        base = float(table["bias"][k, v]) + z.sum(1)
        value = base + reference.noise_factor(effect, base, z) * scale * noise
        size, error = _apply(own[0], value, (size, error))
    if name == "categories" and not table["hard"][k, v]:
        base = float(table["bias"][k, v]) + z.sum(1)
        value = base + reference.noise_factor(effect, base, z) * scale * noise
        levels = int(own[0])
        doubtful = (np.abs(value[:, None] - own[1:levels]) <= error[:, None]).any(1)
        size, error = np.full(len(x), np.abs(own[levels : 2 * levels]).max()), np.where(doubtful, np.inf, 0.0)
    if not table["hard"][k, v]:
        centre, gain = float(table["centre"][v]), float(table["gain"][v])
        error = (error + 2 * U * (size + abs(centre))) * gain if (centre, gain) != (0, 1) else error
    return error


def _apply(header: float, x: np.ndarray, given: Bound) -> Bound:
    """Of a function of x by its header."""
    size, error = given
    function, drawn, g = FUNCTIONS[int(header)], header % 1, reference.function_of(header)
    if function == "square":
        return size**2, 2 * size * error + error**2 + U * size**2
    if function in ("sign", "step"):
        return np.ones_like(size), np.where(np.abs(x) <= error, np.inf, 0.0)
    if function == "sawtooth":
        return np.ones_like(size), np.where(np.abs(x - np.floor(x) - 0.5) <= error, np.inf, error + U * size)
    if function in ("power", "warp"):  # both rise
        passed = np.maximum(np.abs(g(x + error) - g(x)), np.abs(g(x - error) - g(x)))
        own = _error_of_power(np.abs(x), exponent(drawn)) if function == "power" else _error_of_warp(x, drawn * 256)
        return np.maximum(np.abs(g(size)), 1), passed + own
    return np.maximum(size, 1), error + 8 * U * np.maximum(size, 1)  # slopes are at most 1


def exponent(u: float) -> float:
    return 4 ** (2 * u - 1)


def _error_of_power(x: np.ndarray, p: float, relative: np.ndarray | float = 0.0) -> np.ndarray:
    """Of e^(p log x): the logarithm errs by 4 u of 1 + itself, p by 8 u, the exponential by 8 u and by its argument."""
    size = np.abs(np.log(np.maximum(x, 1e-38)))
    return x**p * (8 * U + p * (12 * U * (1 + size) + relative))


def _error_of_warp(x: np.ndarray, drawn: float) -> np.ndarray:
    p, q = exponent(np.floor(drawn) / 256), exponent(drawn % 1)
    share = reference.apply("sigmoid", x)
    rest = 1 - share**p
    error = U + _error_of_power(share, p, U * (8 + 2 * np.abs(x)))
    ends = np.maximum(rest - error, 0) ** q, np.minimum(rest + error, 1) ** q
    return np.maximum(ends[1] - rest**q, rest**q - ends[0]) + _error_of_power(rest, q) + U + 1e-7 * (rest <= error)


def _sum(size: np.ndarray, error: np.ndarray) -> Bound:
    return size.sum(1), error.sum(1) + (size.shape[1] + 2) * U * size.sum(1)


def _mechanism(name: str, own: np.ndarray, z: np.ndarray, error: np.ndarray) -> Bound:
    """Of f(z), z (R, parents) with `error`."""
    size, count = np.abs(z), z.shape[1]
    if count == 0 or name in ("linear", "post_nonlinear", "categories"):
        return _sum(size, error)
    if name in ("mlp", "fourier"):
        function, layers, c = reference.unpack_mlp(own, count)
        for W, b in layers:
            total = size @ np.abs(W).T + np.abs(b)
            given = total, error @ np.abs(W).T + (W.shape[1] + 4) * U * total
            z = z @ W.T + b
            size, error = _apply(function, z, given)
            z = reference.function_of(function)(z)
        return _sum(size * np.abs(c), error * np.abs(c))
    if name == "sum":
        return _sum(*_apply(own[0], z, (size, error)))
    if name == "product":
        size, error = _apply(own[0], z, (size, error))
        return size.prod(1), (size + error).prod(1) - size.prod(1) + (count + 2) * U * size.prod(1)
    if name == "quadratic":
        c = np.zeros((count, count))
        c[np.triu_indices(count)] = np.abs(own[: count * (count + 1) // 2])
        slope = 1 + size @ c.T
        slope_error = error @ c.T + (count + 2) * U * slope
        return _sum(size * slope, error * slope + (size + error) * slope_error)
    if name == "clusters":
        return _of_clusters(own, z, error)
    if name == "factors":
        parts = [_mechanism(kind, part, z, error) for kind, part in reference.unpack_factors(own)]
        size, error = np.prod([s for s, _ in parts], 0), np.prod([s + e for s, e in parts], 0)
        return size, np.nan_to_num(error - size, nan=np.inf, posinf=np.inf) + 5 * U * size
    assert name == "trees"
    number, depth = int(own[0]), int(own[1])
    trees = own[2:][: number * (2 * depth + 2**depth)].reshape(number, -1)
    leaves = np.abs(trees[:, 2 * depth :]).max(1).sum()
    parents, thresholds = trees[:, 0 : 2 * depth : 2].astype(int).ravel(), trees[:, 1 : 2 * depth : 2].ravel()
    doubtful = (np.abs(z[:, parents] - thresholds) <= error[:, parents]).any(1)
    return np.full(len(z), leaves), np.where(doubtful, np.inf, (number + 2) * U * leaves)


def _of_clusters(own: np.ndarray, z: np.ndarray, error: np.ndarray) -> Bound:
    """A score errs by what its distance does, a softmax by twice the worst score that matters in the mean."""
    number, count = int(own[0]), z.shape[1]
    log_widths, precisions, values = own[1 : 1 + 3 * number].reshape(3, number)
    centres = own[1 + 3 * number :][: number * count].reshape(number, count)
    apart = np.abs(z[:, None] - centres)
    apart_error = error[:, None] + U * apart
    distance, passed = (apart**2).sum(2), (2 * apart * apart_error + apart_error**2).sum(2)
    scores, _ = reference.cluster_scores(own, z)
    share = np.exp(scores - scores.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    drawn = 12 * U * (1 + np.abs(log_widths))  # 1/(2s²) from log s, in float32
    score_error = precisions * (passed + (count + 2 + drawn / U) * U * distance) + 2 * U * np.abs(scores)
    off = np.expm1(score_error + 8 * U * (1 + scores.max(1, keepdims=True) - scores))  # relative, of every share
    lost = 1e-37 * np.ones(len(z))  # what is smaller is 0
    spread = np.abs(values - (share @ values)[:, None])
    mean_error = (share * off * spread).sum(1) / np.maximum(1 - (share * off).sum(1), 1e-3)
    size = np.full(len(z), np.abs(values).max())
    return size, mean_error + (2 * number + 4) * U * size + lost
