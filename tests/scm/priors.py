"""Priors that together reach every graph, mechanism, noise and intervention."""

from settx_fast import scm

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
        scm.MLP((3, 9), (1, 3), scm.FUNCTIONS),
        scm.Fourier((5, 20), (0.5, 2.0)),
        scm.Elementwise(scm.FUNCTIONS),
        scm.Elementwise(("tanh", "sine", "bump"), "product"),
        scm.Quadratic((0.0, 0.2)),
        scm.Trees((1, 4), (1, 5)),
        scm.PostNonlinear(scm.FUNCTIONS),
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

NAMED = {
    "chain": scm.presets.chain(),
    "lucas": scm.presets.lucas(),
    "random": scm.presets.random(),
    "everything": EVERYTHING,
}
