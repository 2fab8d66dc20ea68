"""Priors with a name: textbook SCMs, and the random SCMs that the predictor trains on."""

from __future__ import annotations

from dataclasses import replace

from settx_fast.scm.distributions import LogUniform, Uniform
from settx_fast.scm.graphs import ErdosRenyi, Geometric, Layered, ScaleFree, StochasticBlock, UserGraph, WattsStrogatz
from settx_fast.scm.interventions import Intervention, Shifts
from settx_fast.scm.mechanisms import MLP, Fourier, Linear, Quadratic, Trees
from settx_fast.scm.noises import Mixture, StudentT
from settx_fast.scm.observation import Levels, Missing
from settx_fast.scm.prior import PerVariable, Prior

__all__ = ["chain", "lucas", "random", "random_linear", "recurring", "recurring_linear", "shifted"]


def chain() -> Prior:
    """X → Y → Z, to be predicted Y; source and target differ in the noise of X and of Z.

    X ~ N(0, 1), Y = αX + ε·n, Z = γY + η·n with α, γ ~ U(0, 1), ε ~ U(0, 0.5) the same in both environments,
    η ~ U(0, 0.5) in the source and ~ U(0.01, 1.99) in the target, where X has the standard deviation U(0, 1).
    """
    return Prior(
        num_variables=3,
        graph=UserGraph((("X", "Y"), ("Y", "Z"))),
        weight=Uniform(0.0, 1.0),
        noise_scale=PerVariable((1.0, (0.0, 0.5), (0.0, 0.5))),
        target_interventions=(
            Intervention("noise", Uniform(0.0, 1.0), variables=("X",)),
            Intervention("noise", Uniform(0.01, 1.99), variables=("Z",)),
        ),
        target="Y",
        names=("X", "Y", "Z"),
    )


LUCAS_NAMES = (
    "Lung_Cancer", "Smoking", "Yellow_Fingers", "Anxiety", "Peer_Pressure", "Genetics", "Attention_Disorder",
    "Born_an_Even_Day", "Car_Accident", "Fatigue", "Allergy", "Coughing",
)  # fmt: skip

LUCAS_EDGES = (
    ("Anxiety", "Smoking"),
    ("Peer_Pressure", "Smoking"),
    ("Smoking", "Yellow_Fingers"),
    ("Smoking", "Lung_Cancer"),
    ("Genetics", "Lung_Cancer"),
    ("Genetics", "Attention_Disorder"),
    ("Lung_Cancer", "Coughing"),
    ("Lung_Cancer", "Fatigue"),
    ("Allergy", "Coughing"),
    ("Coughing", "Fatigue"),
    ("Fatigue", "Car_Accident"),
    ("Attention_Disorder", "Car_Accident"),
)


def lucas() -> Prior:
    """The 12-variable lung cancer graph LUCAS as a linear Gaussian SCM, to be predicted Lung_Cancer.

    8 to 24 source environments and one target environment each redraw the parameters of one random variable: the
    weights of its parents and its noise. Graph and numbering: I. Guyon et al., Causality Workbench,
    http://www.causality.inf.ethz.ch/data/LUCAS.html (2008).
    """
    redraw_one = (Intervention("redraw"),)
    return Prior(
        num_variables=12,
        graph=UserGraph(LUCAS_EDGES),
        weight=Uniform(0.25, 1.0, signed=True),
        noise_scale=(0.25, 1.0),
        source_environments=(8, 24),
        source_interventions=redraw_one,
        target_interventions=redraw_one,
        target="Lung_Cancer",
        names=LUCAS_NAMES,
    )


def random_linear(max_variables: int = 12) -> Prior:
    """Linear SCMs of 3 to `max_variables` variables with 2 to 4 source environments and a target environment.

    Environments differ by shifts and changed noise of up to two variables and at times by a hard intervention; noise
    is Gaussian, Laplace or uniform; the target variable has a cause and an effect wherever the graph allows.
    """
    differ = (
        Intervention("shift", Uniform(0.25, 2.0, signed=True), number=(0, 2)),
        Intervention("scale", LogUniform(0.33, 3.0), number=(0, 2)),
        Intervention("hard", Uniform(-2.0, 2.0), number=(0, 1), on_target=False),
    )
    return Prior(
        num_variables=(3, max_variables),
        graph=(ErdosRenyi(expected_in_degree=(1.0, 2.0)), ScaleFree((1, 2))),
        weight=Uniform(0.25, 1.25, signed=True),
        noise=("gaussian", "laplace", "uniform"),
        noise_scale=LogUniform(0.25, 1.5),
        source_environments=(2, 4),
        source_interventions=differ,
        target_interventions=differ,
        target="inner",
    )


def random(max_variables: int = 12) -> Prior:
    """As `random_linear`, with mechanisms that are linear or small random networks, variable by variable."""
    linear = random_linear(max_variables)
    fields = {name: getattr(linear, name) for name in linear.__dataclass_fields__}
    return Prior(**fields | {"mechanism": (Linear(), MLP(hidden=(4, 16)))})


def recurring_linear(max_variables: int = 30, max_sources: int = 20) -> Prior:
    """Linear SCMs whose mechanisms move: 4 to `max_variables` variables, 2 to `max_sources` sources of unequal sizes.

    A dataset draws once which mechanisms are mutable and how strongly; sources and target environment draw where they
    move to, the target environment by half to four times as much. The intercept of the variable to predict moves in
    most datasets, its slopes and noise seldom. Few variables and few sources are more frequent than many.
    """
    return Prior(
        num_variables=LogUniform(4, max_variables),
        graph=(ErdosRenyi(expected_in_degree=(1.0, 2.5)), ScaleFree((1, 2))),
        weight=Uniform(0.3, 1.3, signed=True),
        noise=("gaussian", "laplace", "uniform"),
        noise_scale=LogUniform(0.3, 1.5),
        source_environments=LogUniform(2, max_sources),
        shifts=Shifts(
            mutable=(0.15, 0.7),
            moves_intercept=(0.7, 1.0),
            moves_slopes=(0.7, 1.0),
            moves_noise=(0.5, 1.0),
            target_moves_intercept=(0.3, 1.0),
            target_moves_slopes=(0.0, 0.2),
            target_moves_noise=(0.0, 0.2),
            strength=(0.2, 2.5),
            target_strength=LogUniform(0.05, 0.5),
            target_severity=LogUniform(0.5, 4.0),
            redrawn=(0.0, 0.1),
            hard=(0.0, 0.05),
        ),
        target="inner",
        target_share=(0.1, 0.5),
        environment_imbalance=LogUniform(1.0, 20.0),
    )


def recurring(max_variables: int = 30, max_sources: int = 20) -> Prior:
    """As `recurring_linear`, as tables are: a third non-linear, columns with levels, missing values."""
    return replace(
        recurring_linear(max_variables, max_sources),
        mechanism=(Linear(), Linear(), MLP(hidden=(4, 16))),
        same_mechanism=0.8,
        observation=(
            Levels((2, 6), imbalance=(1.0, 8.0), probability=LogUniform(0.005, 0.5)),
            Levels((3, 6), ordered=False, imbalance=(1.0, 8.0), probability=LogUniform(0.005, 0.2)),
            Missing("mcar", rate=(0.0, 0.2), probability=LogUniform(0.005, 0.5)),
            Missing("mar", rate=(0.0, 0.2), probability=LogUniform(0.005, 0.2)),
        ),
    )


def shifted(max_variables: int = 30, max_sources: int = 20) -> dict[str, Prior]:
    """Priors by name that differ from `recurring` in one respect each: what a model trained on that has never seen.

    "fresh shifts": what moves is drawn anew in every environment; "other graphs", "other mechanisms", "other noise":
    of kinds that `recurring` has none of; "severe": target environments move four times as far.
    """
    base = recurring(max_variables, max_sources)
    assert base.shifts is not None
    return {
        "fresh shifts": replace(base, shifts=replace(base.shifts, recurring=False)),
        "other graphs": replace(
            base, graph=(WattsStrogatz((1, 2)), Layered((2, 4), 0.6), StochasticBlock((2, 3)), Geometric((0.3, 0.6)))
        ),
        "other mechanisms": replace(base, mechanism=(Fourier((8, 24)), Quadratic((0.05, 0.3)), Trees((2, 6), (2, 4)))),
        "other noise": replace(
            base,
            noise=(StudentT((2.5, 6.0)), Mixture((0.1, 0.5), (0.0, 4.0), (0.5, 2.0)), "exponential", "gumbel"),
            noise_effect=("additive", "heteroscedastic"),
        ),
        "severe": replace(base, shifts=replace(base.shifts, target_severity=LogUniform(2.0, 16.0))),
    }
