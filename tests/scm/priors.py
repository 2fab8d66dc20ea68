"""Priors that together reach every graph, mechanism, noise and intervention."""

from dataclasses import replace

from settx_fast import scm

FUNCTIONS, LATER = scm.FUNCTIONS[:9], scm.FUNCTIONS[9:]
"""Those that there were first: more to choose from would give the first priors other bits."""

EVERYTHING = scm.Prior(
    num_variables=(3, 9),
    graph=(
        scm.ErdosRenyi(edge_probability=(0.2, 0.9)),
        scm.ScaleFree((1, 3)),
        scm.ScaleFree(2, hubs="in"),
        scm.StochasticBlock((2, 3), within=(0.4, 0.9)),
        scm.WattsStrogatz((1, 2)),
        scm.Geometric((0.2, 0.6)),
        scm.Bipartite(0.6, causes=(0.3, 0.7)),
        scm.Tree(),
        scm.Pattern("chain"),
        scm.Pattern("fork"),
        scm.Pattern("collider"),
        scm.Layered((2, 4), 0.7),
        scm.UserGraph(((1, 0), (0, 2, scm.Normal(0.0, 1.0)))),
    ),
    mechanism=(
        scm.Linear(),
        scm.MLP((3, 9), (1, 3), FUNCTIONS),
        scm.Fourier((5, 20), (0.5, 2.0)),
        scm.Elementwise(FUNCTIONS),
        scm.Elementwise(("tanh", "sine", "bump"), "product"),
        scm.Quadratic((0.0, 0.2)),
        scm.Trees((1, 4), (1, 5)),
        scm.PostNonlinear(FUNCTIONS),
    ),
    weight=scm.LogUniform(0.2, 1.5, signed=True),
    bias=scm.Normal(0.0, 1.0),
    noise=(*scm.NOISES[:3], scm.StudentT((2.5, 9.0)), *scm.NOISES[4:8], scm.Mixture((0.1, 0.9), (0, 4), (0.5, 2))),
    noise_effect=scm.NOISE_EFFECTS,
    noise_scale=(0.1, 1.0),
    source_environments=(1, 4),
    target_environments=(1, 2),
    source_interventions=(
        scm.Intervention("hard", (-1.0, 1.0), number=(0, 1)),
        scm.Intervention("shift", scm.Normal(0.0, 2.0), number=(0, 3)),
        scm.Intervention("redraw", number=(0, 2), on_target=False),
        scm.Intervention("drift", 1.0),
        scm.Intervention("mechanism", number=(0, 2)),
    ),
    target_interventions=(
        scm.Intervention("scale", scm.LogUniform(0.5, 2.0), variables=(0,)),
        scm.Intervention("noise", (0.0, 1.0), variables=(1,)),
        scm.Intervention("cut", 0.5, variables=("target", "children")),
    ),
    target_share=0.4,
)
LINEAR = scm.Prior(num_variables=(2, 6), noise_scale=(0.5, 2.0), bias=scm.Normal(0.0, 1.0))

INTERNAL = replace(EVERYTHING, standardisation="internal")
BY_SAMPLE = replace(EVERYTHING, standardisation="sample")

OBSERVED = replace(
    EVERYTHING,
    mechanism=(scm.Linear(), scm.MLP(4)),
    noise_effect="additive",
    target_interventions=(*EVERYTHING.target_interventions, scm.Intervention("label", (-2.0, 2.0))),
    observation=(
        scm.Hidden((0, 2)),
        scm.Hidden(probability=(0.0, 0.2)),
        scm.Selection(quantile=(0.2, 0.8), environments="all"),
        scm.MeasurementError(probability=0.5, on_target=True),
        scm.Levels((2, 6), imbalance=(1.0, 8.0), probability=0.3, on_target=True),
        scm.Levels(3, ordered=False, probability=0.2),
        scm.Missing("mcar", probability=0.3, on_target=True),
        scm.Missing("mar", variables=("parents", "children")),
        scm.Missing("mnar", (0.0, 0.2), probability=0.3),
    ),
)

# Limits and target shares that are drawn.
DRAWN = replace(
    OBSERVED,
    noise=(scm.ClippedCauchy(scm.LogUniform(0.01, 100.0)), scm.ClippedCauchy((2.0, 20.0)), "gaussian"),
    target_share=(0.1, 0.9),
)
MOVED = replace(
    EVERYTHING,
    num_variables=scm.LogUniform(3, 9),
    same_mechanism=0.3,
    source_environments=scm.LogUniform(1, 4),
    shifts=scm.Shifts(
        mutable=(0.3, 1.0),
        target_moves_intercept=0.5,
        target_moves_slopes=0.5,
        target_severity=scm.LogUniform(0.5, 4.0),
        redrawn=0.2,
        hard=0.2,
    ),
    environment_imbalance=(1.0, 30.0),
)
ACTIVATED = replace(
    EVERYTHING,
    mechanism=(
        scm.MLP((3, 9), (1, 3), LATER),
        scm.Elementwise(LATER),
        scm.Elementwise(LATER, "product"),
        scm.PostNonlinear(LATER),
    ),
)
CATEGORICAL = replace(
    EVERYTHING,
    mechanism=(scm.Categories((2, 9), (0.5, 2.0)), scm.Categories(256), scm.Linear(), scm.MLP(4, 2)),
    standardisation="internal",
)
CLUSTERED = replace(
    EVERYTHING,
    mechanism=(scm.Clusters((2, 9), (0.0, 1.5)), scm.Clusters(64, 0.0), scm.MLP(4), scm.Linear()),
    standardisation="internal",
)
MULTIPLIED = replace(
    EVERYTHING,
    mechanism=(
        scm.Product(
            (
                scm.Linear(),
                scm.MLP((3, 9), 1, LATER),
                scm.Fourier((5, 20), (0.5, 2.0)),
                scm.Elementwise(LATER),
                scm.Elementwise(("tanh", "sine"), "product"),
                scm.Quadratic(0.2),
                scm.Trees((1, 4), (1, 5)),
                scm.Clusters((2, 5)),
            ),
            (2, 3),
        ),
        scm.Product(),
        scm.Linear(),
    ),
    standardisation="internal",
)
DRAWN_LINEAR = replace(LINEAR, noise=scm.ClippedCauchy((0.5, 5.0)), target_share=scm.Normal(0.5, 0.05))

NAMED = {
    "chain": scm.presets.chain(),
    "lucas": scm.presets.lucas(),
    "random": scm.presets.random(),
    "everything": EVERYTHING,
    "internal": INTERNAL,
    "by_sample": BY_SAMPLE,
    "observed": replace(OBSERVED, standardisation="internal"),
    "observed_by_sample": replace(OBSERVED, standardisation="sample"),
    "drawn": DRAWN,
    "drawn_linear": DRAWN_LINEAR,
    "moved": MOVED,
    "fresh": replace(MOVED, shifts=replace(MOVED.shifts, recurring=False), standardisation="internal"),
    "activated": ACTIVATED,
    "categorical": CATEGORICAL,
    "clustered": CLUSTERED,
    "multiplied": MULTIPLIED,
    "recurring": scm.presets.recurring(12, 6),
    "recurring_linear": scm.presets.recurring_linear(10, 6),
}

UNOBSERVED = {name: prior for name, prior in NAMED.items() if not prior.observation}


def _one_at_a_time() -> dict[str, scm.Prior]:
    """EVERYTHING with one graph, mechanism, noise, noise effect or intervention in place of all."""
    cases: dict[str, scm.Prior] = {}
    for field in ("graph", "mechanism", "noise", "noise_effect"):
        for choice in getattr(EVERYTHING, field):
            cases[f"{field}: {choice}"] = replace(EVERYTHING, **{field: choice})
    for observation in OBSERVED.observation:
        cases[f"observation: {observation}"] = replace(OBSERVED, observation=(observation,))
    for intervention in (*EVERYTHING.source_interventions, *EVERYTHING.target_interventions):
        only = {"source_interventions": (intervention,), "target_interventions": ()}
        cases[f"intervention: {intervention.kind}"] = replace(EVERYTHING, **only)
    return cases


EXPLODING = scm.Prior(
    12,
    scm.Pattern("chain"),
    (scm.Elementwise(scm.FUNCTIONS), scm.Elementwise("square"), scm.Quadratic()),
    weight=3.0,
    noise_effect=scm.NOISE_EFFECTS,
)

# Everything that the sampler can do, in small pieces; infinities and NaN; more variables than any GPU's tile holds.
CASES = NAMED | _one_at_a_time()
CASES |= {"exploding": EXPLODING, "wide": scm.Prior((450, 500), scm.ErdosRenyi(3.0))}
CASES |= {
    "clusters and deep networks": replace(CLUSTERED, mechanism=(scm.Clusters(), scm.MLP(5, 3))),
    "products and deep networks": replace(CLUSTERED, mechanism=(scm.Product(), scm.MLP(5, 3))),
}
