"""Datasets from structural causal models (SCMs): a prior over SCMs, a sampler in C++, and exact properties."""

from settx_fast.scm import presets, properties
from settx_fast.scm.distributions import Constant, LogUniform, Normal, Uniform
from settx_fast.scm.graphs import (
    Bipartite,
    ErdosRenyi,
    Geometric,
    Layered,
    Pattern,
    ScaleFree,
    StochasticBlock,
    Tree,
    UserGraph,
    WattsStrogatz,
)
from settx_fast.scm.mechanisms import ACTIVATIONS, MECHANISMS, MLP, Linear
from settx_fast.scm.noises import (
    NOISE_EFFECTS,
    NOISES,
    ClippedCauchy,
    Exponential,
    Gaussian,
    Gumbel,
    Laplace,
    Logistic,
    Mixture,
    StudentT,
    UniformNoise,
)
from settx_fast.scm.prior import INTERVENTIONS, Intervention, PerVariable, Prior
from settx_fast.scm.sampler import STREAM_VERSION, Batch, resample, sample

__all__ = [
    "ACTIVATIONS",
    "INTERVENTIONS",
    "MECHANISMS",
    "MLP",
    "NOISES",
    "NOISE_EFFECTS",
    "STREAM_VERSION",
    "Batch",
    "Bipartite",
    "ClippedCauchy",
    "Constant",
    "ErdosRenyi",
    "Exponential",
    "Gaussian",
    "Geometric",
    "Gumbel",
    "Intervention",
    "Laplace",
    "Layered",
    "Linear",
    "LogUniform",
    "Logistic",
    "Mixture",
    "Normal",
    "Pattern",
    "PerVariable",
    "Prior",
    "ScaleFree",
    "StochasticBlock",
    "StudentT",
    "Tree",
    "Uniform",
    "UniformNoise",
    "UserGraph",
    "WattsStrogatz",
    "presets",
    "properties",
    "resample",
    "sample",
]
