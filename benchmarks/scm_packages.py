"""The SCM packages of PyPI, driven in an interpreter of their own, so that their versions are nobody else's concern.

    python -m benchmarks.run --only sampler --packages PYTHON      (benchmarks/scm_packages.txt says how to make one)

Every package is called through its public functions, given the SCM where it takes one; where it draws the SCM itself,
that is part of what is timed. Drawn once before it is timed, checked, then drawn when the benchmark asks for a round.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np


class Problem(NamedTuple):
    """SCMs to draw `rows` rows from: weights (B, V, V), [i, j] of the edge i → j."""

    weights: np.ndarray
    rows: int

    @property
    def variables(self) -> int:
        """V."""
        return int(self.weights.shape[1])


Draw = Callable[[], Sequence[np.ndarray]]


class Package(NamedTuple):
    """How a package draws: `prepare` makes what it needs and returns a call that draws all datasets.

    own_scms: it takes no SCM, so that only its shape and finiteness can be checked. datasets: as many as take it a
    fraction of a second.
    """

    name: str
    prepare: Callable[[Problem], Draw]
    datasets: int
    own_scms: bool = False


# Linear Gaussian ------------------------------------------------------------------------------------------------------


def sempler_linear(p: Problem) -> Draw:
    from sempler import LGANM

    models = [LGANM(w, np.zeros(p.variables), np.ones(p.variables)) for w in p.weights]
    return lambda: [model.sample(n=p.rows) for model in models]


def dagma_linear(p: Problem) -> Draw:
    from dagma.utils import simulate_linear_sem

    return lambda: [simulate_linear_sem(w, p.rows, "gauss") for w in p.weights]


def gcastle_linear(p: Problem) -> Draw:
    from castle.datasets import IIDSimulation

    return lambda: [IIDSimulation(w, p.rows, method="linear", sem_type="gauss").X for w in p.weights]


def iscm_linear(p: Problem, standardization: str | None = None) -> Draw:
    from iscm.data_sampler import sample_linear

    graphs = [_iscm_graph(w) for w in p.weights]
    rng = np.random.default_rng(0)
    return lambda: [sample_linear(g, standardization=standardization, sample_size=p.rows, rng=rng) for g in graphs]


def iscm_standardised(p: Problem) -> Draw:
    return iscm_linear(p, "internal")


def _iscm_graph(weights: np.ndarray) -> Any:
    from iscm.graph_utils import Graph

    graph = Graph(weight_matrix=weights)
    graph.nodes = set(range(len(weights)))  # it knows only nodes with edges
    return graph


def avici_linear(p: Problem) -> Draw:
    _go_around_init("avici")
    from avici.synthetic.distributions import Gaussian, SignedUniform, Uniform
    from avici.synthetic.linear import LinearAdditive

    one = Uniform(1.0, 1.0)
    model = LinearAdditive(param=SignedUniform(0.5, 2.0), bias=Uniform(0.0, 0.0), noise=Gaussian(), noise_scale=one)
    return _avici_draw(p, model)


def pgmpy_linear(p: Problem) -> Draw:
    from pgmpy.factors.continuous import LinearGaussianCPD
    from pgmpy.models import LinearGaussianBayesianNetwork

    def model(weights: np.ndarray) -> Any:
        network = LinearGaussianBayesianNetwork()
        network.add_nodes_from(range(p.variables))
        network.add_edges_from(zip(*map(np.ndarray.tolist, weights.nonzero()), strict=True))
        for v in range(p.variables):
            parents = weights[:, v].nonzero()[0].tolist()
            network.add_cpds(LinearGaussianCPD(v, [0.0, *weights[parents, v]], 1.0, parents))
        return network

    models = [model(w) for w in p.weights]
    return lambda: [m.simulate(p.rows)[list(range(p.variables))].to_numpy() for m in models]


def dowhy_linear(p: Problem) -> Draw:
    import networkx as nx
    from dowhy import gcm
    from scipy.stats import norm

    class Given(gcm.ml.PredictionModel):
        def __init__(self, weights: np.ndarray) -> None:
            self.weights = weights

        def fit(self, X: np.ndarray, Y: np.ndarray) -> None: ...

        def predict(self, X: np.ndarray) -> np.ndarray:
            return (X @ self.weights)[:, None]

        def clone(self) -> Given:
            return Given(self.weights)

    def model(weights: np.ndarray) -> Any:
        graph: Any = nx.DiGraph()
        graph.add_nodes_from(range(p.variables))
        graph.add_edges_from(zip(*map(np.ndarray.tolist, weights.nonzero()), strict=True))
        causal = gcm.StructuralCausalModel(graph)
        for v in range(p.variables):
            parents = sorted(graph.predecessors(v))
            noise = gcm.ScipyDistribution(norm, loc=0.0, scale=1.0)
            mechanism = gcm.AdditiveNoiseModel(Given(weights[parents, v]), noise) if parents else noise
            causal.set_causal_mechanism(v, mechanism)
            graph.nodes[v][gcm.causal_models.PARENTS_DURING_FIT] = parents  # instead of fitting it to data
        return causal

    gcm.config.disable_progress_bars()
    models = [model(w) for w in p.weights]
    return lambda: [gcm.draw_samples(m, p.rows)[list(range(p.variables))].to_numpy() for m in models]


def causal_profiler_linear(p: Problem) -> Draw:
    return _causal_profiler(p, "linear", None)


# Non-linear -----------------------------------------------------------------------------------------------------------


def gcastle_mlp(p: Problem) -> Draw:
    from castle.datasets import IIDSimulation

    return lambda: [IIDSimulation(w, p.rows, method="nonlinear", sem_type="mlp").X for w in p.weights]


def dagma_mlp(p: Problem) -> Draw:
    from dagma.utils import simulate_nonlinear_sem

    return lambda: [simulate_nonlinear_sem((w != 0).astype(int), p.rows, "mlp") for w in p.weights]


def causal_profiler_mlp(p: Problem) -> Draw:
    from causal_profiler.constants import NeuralNetworkType

    return _causal_profiler(p, "nn", [NeuralNetworkType.FEEDFORWARD, 100])


def avici_fourier(p: Problem) -> Draw:
    _go_around_init("avici")
    from avici.synthetic.distributions import Gaussian, Uniform
    from avici.synthetic.rff import RFFAdditive

    one, zero = Uniform(1.0, 1.0), Uniform(0.0, 0.0)
    return _avici_draw(p, RFFAdditive(one, one, zero, Gaussian(), noise_scale=one))


def iscm_fourier(p: Problem) -> Draw:
    from iscm.data_sampler import sample_rff

    graphs, rng = [_iscm_graph(w) for w in p.weights], np.random.default_rng(0)
    options: dict[str, Any] = {"standardization": None, "length_scale_range": (1.0, 1.0), "output_scale_range": (1, 1)}
    return lambda: [sample_rff(g, sample_size=p.rows, rng=rng, **options) for g in graphs]


# Whole priors ---------------------------------------------------------------------------------------------------------


def tabicl_prior(kind: str) -> Callable[[Problem], Draw]:
    """Batches of PriorDataset in groups of four, as by default: 1,024 rows, 2 to 100 features, a class to predict.

    In one process: its parallel jobs cannot be started from a prior that is made in code.
    """

    def prepare(p: Problem) -> Draw:
        from tabicl.prior import PriorDataset

        prior = PriorDataset(
            batch_size=len(p.weights), max_seq_len=p.rows, min_features=2, max_features=100, prior_type=kind, n_jobs=1
        )
        return lambda: list(prior.get_batch()[0].numpy())

    return prepare


def tabicl_network(p: Problem) -> Draw:
    """MLPSCM alone: no classes, no categories, no outliers, one middling choice of hyperparameters."""
    import torch
    from tabicl.prior._mlp_scm import MLPSCM

    def one() -> np.ndarray:
        with torch.no_grad():
            model = MLPSCM(p.rows, 51, is_causal=False, num_layers=3, hidden_dim=67, noise_std=0.03, sampling="normal")
            return np.asarray(torch.cat([part.reshape(p.rows, -1) for part in model()], 1))

    return lambda: [one() for _ in p.weights]


def tabpfn_prior(p: Problem) -> Draw:
    """The network prior of TabPFN's first version, 51 features, middling hyperparameters, no classes."""
    import torch

    _go_around_init("tabpfn")
    _go_around_init("tabpfn.priors")
    from tabpfn.priors.mlp import get_batch

    hyperparameters: dict[str, Any] = {
        "num_layers": 3,
        "prior_mlp_hidden_dim": 67,
        "prior_mlp_activations": torch.nn.Tanh,
        "noise_std": 0.03,
        "init_std": 1.0,
        "prior_mlp_dropout_prob": 0.2,
        "num_causes": 10,
        "is_causal": False,
        "pre_sample_causes": True,
        "pre_sample_weights": False,
        "prior_mlp_scale_weights_sqrt": True,
        "random_feature_rotation": True,
        "block_wise_dropout": False,
        "sort_features": False,
        "in_clique": False,
        "y_is_effect": True,
        "sampling": "normal",
        "add_uninformative_features": False,
        "new_mlp_per_example": True,
    }

    def draw() -> list[np.ndarray]:
        x = get_batch(len(p.weights), p.rows, 51, hyperparameters.copy(), device="cpu")[0]
        return list(x.transpose(0, 1).numpy())

    return draw


# Helpers --------------------------------------------------------------------------------------------------------------


def _go_around_init(name: str) -> None:
    """Let the modules of a package be imported without its __init__, which wants more than they do."""
    if name in sys.modules:
        return
    found = importlib.util.find_spec(name)
    if found is None:
        raise ModuleNotFoundError(f"No module named '{name}'")
    package = ModuleType(name)
    package.__path__ = list(found.submodule_search_locations or ())
    sys.modules[name] = package


def _avici_draw(p: Problem, model: Callable[..., Any]) -> Draw:
    rng, graphs = np.random.default_rng(0), [(w != 0).astype(int) for w in p.weights]
    return lambda: [model(rng, g, p.rows, 0).x_obs[..., 0] for g in graphs]


def _causal_profiler(p: Problem, family: str, arguments: list[Any] | None) -> Draw:
    from causal_profiler import Sampler, SpaceOfInterest
    from causal_profiler.constants import MechanismFamily, NoiseDistribution, QueryType

    space = SpaceOfInterest(
        number_of_nodes=(p.variables, p.variables),
        mechanism_family=MechanismFamily(family),
        mechanism_args=arguments,
        expected_edges=2 * p.variables,
        noise_distribution=NoiseDistribution.GAUSSIAN,
        noise_args=[0, 1],
        query_type=QueryType.ATE,
        disable_query_sampling=True,
        number_of_data_points=p.rows,
    )
    sampler = Sampler(space, return_adjacency_matrix=True)

    def one() -> np.ndarray:
        return np.stack([np.asarray(x).reshape(p.rows) for x in sampler.generate_samples_and_queries()[0].values()], 1)

    return lambda: [one() for _ in p.weights]


PACKAGES: dict[str, tuple[Package, ...]] = {
    "linear": (
        Package("causal-profiler", causal_profiler_linear, 50, own_scms=True),
        Package("iscm", iscm_linear, 50),
        Package("dagma", dagma_linear, 50),
        Package("sempler", sempler_linear, 50),
        Package("gcastle", gcastle_linear, 50),
        Package("avici", avici_linear, 50, own_scms=True),
        Package("pgmpy", pgmpy_linear, 20),
        Package("dowhy", dowhy_linear, 10),
    ),
    "standardised": (Package("iscm", iscm_standardised, 50),),
    "MLP of 100 units": (
        Package("gcastle", gcastle_mlp, 10, own_scms=True),
        Package("dagma", dagma_mlp, 10, own_scms=True),
        Package("causal-profiler", causal_profiler_mlp, 5, own_scms=True),
    ),
    "100 Fourier features": (
        Package("avici", avici_fourier, 5, own_scms=True),
        Package("iscm", iscm_fourier, 5, own_scms=True),
    ),
    "MLP prior": (
        Package("tabicl mlp_scm", tabicl_prior("mlp_scm"), 16, own_scms=True),
        Package("tabicl MLPSCM alone", tabicl_network, 20, own_scms=True),
    ),
    "tree prior": (Package("tabicl tree_scm", tabicl_prior("tree_scm"), 4, own_scms=True),),
    "other priors": (
        Package("tabicl mix_scm", tabicl_prior("mix_scm"), 8, own_scms=True),
        Package("tabicl graph_scm", tabicl_prior("graph_scm"), 4, own_scms=True),
        Package("tabpfn 0.1 mlp", tabpfn_prior, 20, own_scms=True),
    ),
}


# The process that draws -----------------------------------------------------------------------------------------------


def prepare(case: str, package: Package, problem: Problem) -> tuple[Draw | None, dict[str, Any]]:
    """A call that draws, and what the other side is told: why not, or shape and standard deviations of a draw."""
    told: dict[str, Any] = {"case": case, "name": package.name, "own_scms": package.own_scms}
    try:
        draw = package.prepare(problem._replace(weights=problem.weights[: package.datasets]))
        drawn = [np.asarray(x, np.float64) for x in draw()]
    except Exception as error:
        return None, told | {"problem": f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"}
    told |= {"datasets": len(drawn), "values": sum(x.size for x in drawn)}
    told["finite"] = all(bool(np.isfinite(x).all()) for x in drawn)
    return draw, told | {"problem": None, "std": [] if package.own_scms else [x.std(0).tolist() for x in drawn]}


def serve(problem_file: str) -> None:
    """Prepare everything, tell it on one line of JSON, then draw whatever is asked for and tell the seconds."""
    import torch

    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # some packages print
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    with np.load(problem_file) as problem:
        weights = problem["weights"]
    draws, told = {}, []
    for case, packages in PACKAGES.items():
        for package in packages:
            draw, about = prepare(case, package, Problem(weights, 1024 if "prior" in case else 1000))
            draws[case, package.name] = draw
            told.append(about)
    replies.write(json.dumps(told) + "\n")
    for line in sys.stdin:
        draw = draws[tuple(json.loads(line))]
        assert draw is not None
        start = time.perf_counter()
        draw()
        replies.write(json.dumps(time.perf_counter() - start) + "\n")


if __name__ == "__main__":
    serve(sys.argv[1])
