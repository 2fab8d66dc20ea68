"""Philox, the elementary functions and the noises, on every instruction set of this machine."""

import mpmath
import numpy as np
import pytest
from scipy import stats

from settx_fast.scm import NOISES, reference
from settx_fast.scm._native import native
from settx_fast.scm.noises import clipped_cauchy_sd

PATHS = native().path_names()

# Random123's published known answers for philox4x32-10.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_philox_gives_the_published_words(counter, key, words):
    seed = key[0] | key[1] << 32
    assert tuple(native().philox(counter, seed)) == words
    assert tuple(reference.philox(np.array(counter, np.uint32), seed)) == words


def ulps(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    return np.abs(got - exact) / np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)


def grid(low: float, high: float, count: int = 200_000) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, count).astype(np.float32)


# Half an ulp for each rounding after the polynomial, whose own error is below a tenth; a quotient that crosses a power
# of two doubles what came before it. The polynomials of tanh err by 2.3 ulps (1.4e-7) themselves.
@pytest.mark.parametrize(
    ("function", "exact", "x", "bound"),
    [
        ("log", np.log, np.exp2(grid(-33, 1)).astype(np.float32), 2.0),
        ("log", np.log, grid(0.9, 1.1), 2.0),
        ("exp", np.exp, grid(-87, 88), 2.0),
        ("atan", np.arctan, grid(-1, 1), 2.0),
        ("atan", np.arctan, grid(-0.01, 0.01), 2.0),
        ("tanh", np.tanh, grid(-12, 12), 8.0),
        ("tanh", np.tanh, grid(-0.01, 0.01), 6.0),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), grid(-80, 80), 4.0),
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_elementary_functions_are_within_a_few_ulps(path, function, exact, x, bound):
    got = native().apply(function, x, path)
    assert ulps(got.astype(np.float64), exact(x.astype(np.float64))).max() <= bound


# The three steps of the reduction and the last sum round by half an ulp each; where the angle is large, so is the
# cosine small that it is multiplied with.
@pytest.mark.parametrize("path", PATHS)
def test_sine_errs_by_less_than_two_ulps_of_one(path):
    x = grid(-9000, 9000)
    error = native().apply("sin", x, path).astype(np.float64) - np.sin(x.astype(np.float64))
    assert np.abs(error).max() <= 2 * 2**-23


# The word, the constant and their product round: the angle of π/2 at most is off by two ulps of one, which a cosine
# near 0 passes on, and its polynomial errs by half an ulp.
@pytest.mark.parametrize("path", PATHS)
def test_sine_and_cosine_of_half_turns_err_by_less_than_three_ulps_of_one(path):
    words = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32)
    angle = words.view(np.int32) / 2**32 * np.pi
    for function, exact in (("sin_of_half_turn", np.sin), ("cos_of_half_turn", np.cos)):
        got = native().apply(function, words.view(np.float32), path).astype(np.float64)
        assert np.abs(got - exact(angle)).max() <= 3 * 2**-23


def test_oracle_of_the_functions_agrees_with_mpmath():
    x = grid(-80, 80, 50)
    with mpmath.workdps(40):
        for exact, function in (
            (np.exp, mpmath.exp),
            (np.tanh, mpmath.tanh),
            (np.sin, mpmath.sin),
            (np.arctan, mpmath.atan),
        ):
            true = np.array([float(function(float(value))) for value in x])
            np.testing.assert_allclose(exact(x.astype(np.float64)), true, rtol=1e-13)


@pytest.mark.parametrize("function", ["exp", "tanh", "sigmoid"])
@pytest.mark.parametrize("path", PATHS)
def test_functions_keep_nan_and_saturate_at_infinity(path, function):
    got = native().apply(function, np.array([np.nan, -np.inf, np.inf], np.float32), path)
    saturated = {"exp": (0, np.inf), "tanh": (-0.99999964, 0.99999964), "sigmoid": (0, 1)}[function]
    assert np.isnan(got[0])
    assert tuple(got[1:]) == tuple(np.float32(saturated))


@pytest.mark.parametrize("path", PATHS)
def test_tanh_never_leaves_its_range(path):
    near_the_end = np.arange(np.float32(4).view(np.int32), np.float32(8).view(np.int32), 5, np.int32).view(np.float32)
    assert np.abs(native().apply("tanh", near_the_end, path)).max() <= 1


FUNCTIONS = ["log", "exp", "tanh", "atan", "sigmoid", "sin", "sin_of_half_turn", "cos_of_half_turn"]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_instruction_set_gives_the_same_bits_of_a_function(function):
    x = np.random.default_rng(1).integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
    x = np.where(np.isfinite(x) & (np.abs(x) > 1e-30), x, np.float32(1))
    x = np.abs(x) if function == "log" else x
    results = [native().apply(function, x, path).tobytes() for path in PATHS]
    assert len(set(results)) == 1


DEGREES = 5.0
SHARE, DISTANCE, RATIO = 0.3, 3.0, 0.5
GIVEN = {"student_t": (DEGREES, 0, 0), "clipped_cauchy": (4.0, 1 / clipped_cauchy_sd(4.0), 0)}
GIVEN["mixture"] = (SHARE, DISTANCE, RATIO)

# The standardised mixture, and its native parameters.
SPREAD = np.sqrt(1 - SHARE + SHARE * RATIO**2 + SHARE * (1 - SHARE) * DISTANCE**2)
COMPONENTS = np.array([SHARE, -SHARE * DISTANCE / SPREAD, 1 / SPREAD, (1 - SHARE) * DISTANCE / SPREAD, RATIO / SPREAD])
PARAMETERS = GIVEN | {"mixture": COMPONENTS}


def mixture_cdf(x: np.ndarray) -> np.ndarray:
    share, mean0, scale0, mean1, scale1 = COMPONENTS
    return (1 - share) * stats.norm.cdf(x, mean0, scale0) + share * stats.norm.cdf(x, mean1, scale1)


CDF = {
    "gaussian": stats.norm().cdf,
    "laplace": stats.laplace(scale=np.sqrt(0.5)).cdf,
    "uniform": stats.uniform(-np.sqrt(3), 2 * np.sqrt(3)).cdf,
    "student_t": stats.t(DEGREES, scale=np.sqrt((DEGREES - 2) / DEGREES)).cdf,
    "exponential": stats.expon(-1).cdf,
    "gumbel": stats.gumbel_r(-np.euler_gamma * np.sqrt(6) / np.pi, np.sqrt(6) / np.pi).cdf,
    "logistic": stats.logistic(scale=np.sqrt(3) / np.pi).cdf,
    "mixture": mixture_cdf,
}


def draw_noise(kind: str, count: int, path: str = "best", variable: int = 0) -> np.ndarray:
    noise, given = np.empty(count, np.float32), GIVEN.get(kind, (0, 0, 0))
    native().fill_noise(NOISES.index(kind), given, 7, 0, variable, noise, 2, path)
    return noise


@pytest.mark.parametrize("kind", NOISES)
def test_noise_has_the_distribution_that_scipy_says(kind):
    x = draw_noise(kind, 1 << 20)
    assert abs(x.mean()) < 5 / 2**10  # five standard errors
    fourth = np.mean((x.astype(np.float64) - x.mean()) ** 4)
    assert abs(x.var() - 1) < 5 * np.sqrt((fourth - 1) / 2**20)
    if kind != "clipped_cauchy":
        assert stats.kstest(x, CDF[kind]).pvalue > 1e-3


def test_clipped_cauchy_is_cauchy_inside_and_clipped_at_its_limit():
    limit, scale = 4.0, 1 / clipped_cauchy_sd(4.0)
    x = draw_noise("clipped_cauchy", 1 << 20) / scale
    inside = np.abs(x) < limit * (1 - 1e-6)
    low, high = stats.cauchy.cdf([-limit, limit])
    assert stats.binomtest(int(inside.sum()), len(x), high - low).pvalue > 1e-3
    assert stats.kstest(x[inside], lambda y: (stats.cauchy.cdf(y) - low) / (high - low)).pvalue > 1e-3
    assert np.abs(x).max() <= limit * (1 + 1e-6)


@pytest.mark.parametrize("kind", NOISES)
def test_noise_of_neighbouring_rows_and_variables_is_uncorrelated(kind):
    x, other = draw_noise(kind, 1 << 18), draw_noise(kind, 1 << 18, variable=1)
    for lag in (1, 15, 16, 17, 32, 48, 64):
        assert abs(np.mean(x[lag:] * x[:-lag])) < 5 / 2**9
        squares = x**2 - 1
        assert abs(np.mean(squares[lag:] * squares[:-lag])) < 5 * np.var(squares) / 2**9
    assert abs(np.mean(x * other)) < 5 / 2**9


def test_gaussian_tails_reach_beyond_what_24_bits_allow():
    x = draw_noise("gaussian", 1 << 25)
    expected = 2 * stats.norm.sf(5) * 2**25
    assert abs((np.abs(x) > 5).sum() - expected) < 5 * np.sqrt(expected)


@pytest.mark.parametrize("kind", NOISES)
def test_every_instruction_set_gives_the_same_bits_of_a_noise(kind):
    assert len({draw_noise(kind, 1 << 16, path).tobytes() for path in PATHS}) == 1


def normal_error() -> np.ndarray:
    """Three ulps of one from sine or cosine and one from the radius; near 1, the radius of a uniform number that is
    rounded to a float, by 2⁻²⁵ at most, is off by twice that over itself."""
    _, u = reference.signed_uniform(reference.noise_words(7, 0, 0, 0, 1 << 16)[:, 0::2])
    radius = np.repeat(np.sqrt(-2 * np.log(u))[:, :, None], 2, axis=2).reshape(-1)
    return 4 * 2**-23 * radius + 2**-24 / radius


# A mixture's components are narrower than its normals. A tangent magnifies the angle's error by 1 + x².
ERRORS = {"uniform": lambda x: 2 * 2**-23, "gaussian": lambda x: normal_error(), "mixture": lambda x: normal_error()}
ERRORS |= {"clipped_cauchy": lambda x: 2**-21 * (1 + x * x), "exponential": lambda x: 24 * 2**-22}
ERRORS |= {"gumbel": lambda x: 24 * 2**-22, "logistic": lambda x: 24 * 2**-22, "laplace": lambda x: 24 * 2**-22}


@pytest.mark.parametrize("kind", [kind for kind in NOISES if kind != "student_t"])
def test_noise_equals_the_oracle_within_rounding(kind):
    got = draw_noise(kind, 1 << 16).astype(np.float64)
    exact = reference.noise(
        kind, PARAMETERS.get(kind, ()), seed=7, dataset=0, environment=0, variable=0, num_rows=1 << 16
    )
    wrong = np.abs(got - exact) > ERRORS[kind](exact)
    if kind == "mixture":  # a word at the very border may fall on either side
        assert wrong.sum() <= 1
    else:
        assert not wrong.any()


def test_student_t_equals_the_oracle_within_rounding():
    got = draw_noise("student_t", 1 << 16).astype(np.float64)
    exact = reference.noise("student_t", (DEGREES,), seed=7, dataset=0, environment=0, variable=0, num_rows=1 << 16)
    _, u = reference.signed_uniform(reference.noise_words(7, 0, 0, 0, 1 << 16))
    power = u.reshape(-1) ** (-2 / DEGREES)
    square = (DEGREES - 2) * (power - 1)
    # u^(−2/d) has a relative error of a few ulps, more where its exponent is large; the square root of a small
    # difference magnifies it.
    error = (DEGREES - 2) * power * (4 + np.log(power)) * 2**-23
    tolerance = np.minimum(error / np.sqrt(square), np.sqrt(error)) + 2**-22 * np.sqrt(square)
    assert np.all(np.abs(got - exact) <= tolerance)
