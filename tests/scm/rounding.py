"""How far float32 rounding may take the sampler's rows from the oracle's, by propagating magnitudes along the graph."""

import numpy as np

from settx_fast import scm
from settx_fast.scm import reference
from settx_fast.scm.noises import NOISE_EFFECTS, NOISES

U = 2.0**-24
NOISE_ERROR = 1000 * U  # of 1 + |n|: the tangent of a clipped Cauchy near its limit is the worst


def rounding_bound(batch: scm.Batch, b: int) -> np.ndarray:
    """(R, V): a sum of n terms errs by (n + 2) u of its magnitudes, a function by 8 u; slopes are at most 1."""
    table = {name: getattr(batch, name)[b].numpy() for name in reference._PER_DATASET}
    parameters = batch.mechanism_parameters.numpy().astype(np.float64)
    exact, bound = reference.evaluate(batch, b), np.zeros(table["values"].shape)
    for k in range(int(table["num_environments"])):
        rows = table["environment"] == k
        x, error = exact[rows], np.zeros((rows.sum(), bound.shape[1]))
        for v in table["order"][: int(table["num_variables"])]:
            error[:, v] = _variable(batch, table, parameters, k, int(v), x, error)
        bound[rows] = error
    return bound


def _variable(batch, table, parameters, k, v, x, error) -> np.ndarray:
    parents = [] if table["hard"][k, v] else reference.parents_in_order(table, v)
    weights = np.abs(table["weights"][k, parents, v].astype(np.float64))
    size, error = np.abs(x[:, parents]) * weights, error[:, parents] * weights
    predictor = error.sum(1) + (len(parents) + 2) * U * size.sum(1)
    size, error = _mechanism(table, parameters, k, v, size, error)
    size, error = size + abs(float(table["bias"][k, v])), error + 4 * U * (size + abs(float(table["bias"][k, v])))

    kind, shape = NOISES[table["noise_kind"][v]], table["noise_parameters"][v].astype(np.float64)
    scale = float(table["noise_scale"][k, v])
    n = np.abs(reference.noise(kind, shape, batch.seed, int(table["index"]), k, v, len(x)))
    noise_error = scale * NOISE_ERROR * (1 + n)
    effect = NOISE_EFFECTS[table["noise_effect"][v]] if parents else "additive"
    if effect == "multiplicative":
        return error * (1 + scale * n) + size * noise_error
    return error + 2 * noise_error + (scale * n * (predictor + 8 * U) if effect == "heteroscedastic" else 0)


def _mechanism(table, parameters, k, v, size, error) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude and error of f(z), from those of the weighted parents z."""
    num_parents = size.shape[1]
    if num_parents == 0 or table["mechanism"][v] == 0:
        return size.sum(1), error.sum(1) + (num_parents + 2) * U * size.sum(1)
    _, layers, c = reference.unpack_mlp(parameters[table["mechanism_offset"][k, v] :], num_parents)
    error = error + U * size
    for W, b in layers:
        W = np.abs(W)
        size = np.maximum(size @ W.T + np.abs(b), 1)
        error = error @ W.T + (W.shape[1] + 10) * U * size
    return size @ np.abs(c), error @ np.abs(c) + (len(c) + 2) * U * (size @ np.abs(c))
