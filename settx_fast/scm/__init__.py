"""Datasets from structural causal models (SCMs): a prior over SCMs, a sampler in C++, and exact properties.

prior = scm.Prior(20, scm.ErdosRenyi(2), (scm.Linear(), scm.MLP()), noise=("gaussian", "laplace"))
batch = scm.sample(prior, num_datasets=100, num_rows=1000, seed=0)
batch.values, batch.adjacency, batch.weights    # rows, graphs, weights of every environment
batch.do({"x3": 1.0}).values                    # the same units in the world where x3 was set
X, y = batch.xy(0)                              # one dataset: its visible features, and its target
for batch in scm.stream(prior, batch_size=64, seed=0, num_rows=1024):
    batch.features, batch.target                # without end, and every rank its own
for batch in scm.tabular_stream(prior, 8, seed=0, num_rows=1024):
    batch.X, batch.y, batch.train_size          # what tabular foundation models pretrain on
"""

from settx_fast.scm import presets, properties
from settx_fast.scm.batch import STREAM_VERSION, Batch
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
from settx_fast.scm.interventions import INTERVENTIONS, Intervention, Shifts
from settx_fast.scm.mechanisms import (
    FUNCTIONS,
    MECHANISMS,
    MLP,
    Categories,
    Clusters,
    Elementwise,
    Fourier,
    Linear,
    PostNonlinear,
    Product,
    Quadratic,
    Trees,
)
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
from settx_fast.scm.observation import Hidden, Levels, MeasurementError, Missing, Selection
from settx_fast.scm.prior import PerVariable, Prior
from settx_fast.scm.prior_dir import write_prior_dir
from settx_fast.scm.sampler import resample, sample
from settx_fast.scm.streaming import Stream, stream
from settx_fast.scm.tabular import TabularBatch, TabularStream, tabular_stream

__all__ = [
    "FUNCTIONS",
    "INTERVENTIONS",
    "MECHANISMS",
    "MLP",
    "NOISES",
    "NOISE_EFFECTS",
    "STREAM_VERSION",
    "Batch",
    "Bipartite",
    "Categories",
    "ClippedCauchy",
    "Clusters",
    "Constant",
    "Elementwise",
    "ErdosRenyi",
    "Exponential",
    "Fourier",
    "Gaussian",
    "Geometric",
    "Gumbel",
    "Hidden",
    "Intervention",
    "Laplace",
    "Layered",
    "Levels",
    "Linear",
    "LogUniform",
    "Logistic",
    "MeasurementError",
    "Missing",
    "Mixture",
    "Normal",
    "Pattern",
    "PerVariable",
    "PostNonlinear",
    "Prior",
    "Product",
    "Quadratic",
    "ScaleFree",
    "Selection",
    "Shifts",
    "StochasticBlock",
    "Stream",
    "StudentT",
    "TabularBatch",
    "TabularStream",
    "Tree",
    "Trees",
    "Uniform",
    "UniformNoise",
    "UserGraph",
    "WattsStrogatz",
    "presets",
    "properties",
    "resample",
    "sample",
    "stream",
    "tabular_stream",
    "write_prior_dir",
]
