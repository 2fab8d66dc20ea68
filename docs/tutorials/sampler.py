# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Sampler cookbook
#
# Recipes for `settx_fast.scm`: how to say which structural causal models (SCMs) you want, and what to do with what you get.
# Every recipe stands alone.

# %%
# On Google Colab: Runtime → Change runtime type → GPU, if you like. Everything here runs on a CPU.
import importlib.util
import os
import subprocess
import sys

PACKAGES = ["settx_fast[app]"]  # or ["settx_fast[app] @ file:///content/NAME.whl"], a wheel that you uploaded
if importlib.util.find_spec("settx_fast") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
verdict = subprocess.run(
    [sys.executable, "-m", "settx_fast.cli", "doctor", "--brief"], capture_output=True, text=True, check=False
)
print(verdict.stdout)

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch

from settx_fast import scm

SMALL = os.environ.get("SETTX_SMALL") == "1"  # sizes for a test: everything runs, nothing is learned
GREY, BLUE, RED, GREEN = "#808080", "#3b8bd0", "#d1605e", "#4a9b6e"  # seen on a light page and on a dark one
plt.rcParams.update(dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"))
plt.rcParams.update(
    dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY)
)
plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})


# %% [markdown]
# ## A prior, and datasets
#
# A number may be a constant, a range or a distribution; it is drawn anew for every dataset. The result is padded to the
# largest dataset; `to_pandas` and `xy` give one dataset without padding.

# %%
prior = scm.Prior(
    num_variables=(4, 8),
    graph=scm.ErdosRenyi(expected_in_degree=(1, 2)),
    noise=("gaussian", "laplace"),
    noise_scale=scm.LogUniform(0.3, 1.5),
    source_environments=3,
    target_interventions=(scm.Intervention("shift", (1.0, 2.0)),),
)
batch = scm.sample(prior, num_datasets=100, num_rows=400, seed=0)
print(batch)
X, y = batch.xy(7)
print("dataset 7:", tuple(X.shape), tuple(y.shape), "edges", list(batch.graph(7).edges))
batch.to_pandas(7).head(3).round(2)

# %% [markdown]
# ## Graphs
#
# Ten families. One draw of each, 30 variables; dark is an edge from row to column, in causal order.

# %%
graphs = {
    "ErdosRenyi": scm.ErdosRenyi(expected_in_degree=2),
    "ScaleFree": scm.ScaleFree(2),
    "StochasticBlock": scm.StochasticBlock(3),
    "WattsStrogatz": scm.WattsStrogatz(2),
    "Geometric": scm.Geometric(0.3),
    "Bipartite": scm.Bipartite(0.3),
    "Tree": scm.Tree(),
    "Pattern chain": scm.Pattern("chain"),
    "Layered": scm.Layered(4, 0.5),
    "UserGraph": scm.UserGraph(tuple((i, 29) for i in range(29))),
}
figure, axes = plt.subplots(2, 5, figsize=(10, 4.4))
for (name, graph), axis in zip(graphs.items(), axes.flat, strict=True):
    drawn = scm.sample(scm.Prior(30, graph), 1, 2, seed=1)
    order = drawn.order[0]
    axis.imshow(drawn.adjacency[0][order][:, order], cmap="Blues", alpha=0.9)
    axis.set(title=name, xticks=[], yticks=[])
plt.show()

# %% [markdown]
# A graph of your own comes as edges, a matrix, a data frame or a networkx graph, with or without weights:

# %%
mine = scm.UserGraph((("dose", "marker"), ("dose", "outcome"), ("outcome", "score", 0.7)))
named = scm.Prior(4, mine, names=("dose", "marker", "outcome", "score"), target="outcome")
scm.sample(named, 1, 200, seed=0).to_pandas(0).drop(columns="environment").corr(numeric_only=True).iloc[:4, :4].round(2)

# %% [markdown]
# ## Mechanisms
#
# How an effect depends on its cause: x0 → x1, three draws of each mechanism. Given several, each variable takes one.

# %%
mechanisms = {
    "Linear": scm.Linear(),
    "MLP": scm.MLP(hidden=8),
    "Fourier": scm.Fourier(),
    "Elementwise sine": scm.Elementwise("sine"),
    "Quadratic": scm.Quadratic(),
    "Trees": scm.Trees(),
    "PostNonlinear": scm.PostNonlinear("tanh"),
    "product": scm.Elementwise("tanh", "product"),
}
edge = scm.UserGraph(((0, 1),))
figure, axes = plt.subplots(2, 4, figsize=(10, 4.6), sharex=True)
for (name, mechanism), axis in zip(mechanisms.items(), axes.flat, strict=True):
    drawn = scm.sample(scm.Prior(2, edge, mechanism, noise_scale=scm.PerVariable((1.0, 0.1))), 3, 200, seed=2)
    for values, colour in zip(drawn.values, (BLUE, RED, GREEN), strict=True):
        axis.scatter(*values.T, s=4, color=colour)
    axis.set_title(name)
plt.show()

# %% [markdown]
# ## Noises
#
# All have mean 0 and variance 1 before `noise_scale`; what differs is their shape.

# %%
rows = 500 if SMALL else 20_000
shape = {}
for name in scm.NOISES:
    n = scm.sample(scm.Prior(1, noise=name, target_environments=0), 1, rows, seed=3).values.flatten()
    shape[name] = {
        "mean": n.mean(),
        "variance": n.var(),
        "skewness": n.pow(3).mean(),
        "beyond 3": (n.abs() > 3).float().mean(),
    }
pd.DataFrame(shape).T.astype(float).round(3)

# %% [markdown]
# `noise_effect="multiplicative"` or `"heteroscedastic"` changes what noise does; `scm.Mixture(share=0.1, distance=0, ratio=5)`
# makes outliers.
#
# ## Environments and interventions
#
# An environment is the same SCM with some parameters changed. Here x0 → x1 → x2, one source, and a deployment in which
# something happens to x1:

# %%
chain = scm.UserGraph(((0, 1), (1, 2)))
kinds = {"shift": 2.0, "scale": 3.0, "noise": 0.1, "hard": 1.5, "redraw": None, "cut": 1.0}
seen = {}
for kind, value in kinds.items():
    happens = (scm.Intervention(kind, value, variables=(1,)),)
    drawn = scm.sample(scm.Prior(3, chain, weight=1.0, target_interventions=happens), 1, 2000, seed=4)
    values = drawn.values[0, drawn.is_target_row[0]]
    seen[kind] = {
        "x1 mean": values[:, 1].mean(),
        "x1 sd": values[:, 1].std(),
        "x2 mean": values[:, 2].mean(),
        "x2 sd": values[:, 2].std(),
    }
pd.DataFrame(seen).T.astype(float).round(2)

# %% [markdown]
# `mechanism`, `label` (P(y) changes, P(x | y) stays) and `drift` (a continuous change over environments) are the others.
# `scm.Shifts` lets the same mechanisms move in every environment, so that what varied between the sources varies in the
# deployment too; `scm.presets.recurring` is made of it.
#
# ## Counterfactuals
#
# `batch.do` draws the same units, with the same noise, in the world where a variable was set.

# %%
world = scm.sample(scm.Prior(3, chain, weight=(0.5, 1.5)), 5, 1000, seed=5)
effect = (world.do({1: 1.0}).values - world.do({1: 0.0}).values)[..., 2]
pd.DataFrame(
    {
        "effect of x1 on x2, unit by unit: mean": effect.mean(1),
        "its sd": effect.std(1),
        "weight of the edge": world.weights[:, 0, 1, 2],
    }
).round(4)

# %% [markdown]
# ## What is seen
#
# Hidden variables, selected rows, errors of measurement, levels and missing values: laid over any prior, the truth below
# stays known.

# %%
observed = scm.Prior(
    6,
    source_environments=2,
    observation=(
        scm.Hidden(number=1),
        scm.Levels(number=3, probability=0.4),
        scm.MeasurementError(scale=0.3, probability=0.5),
        scm.Missing("mar", rate=0.2),
    ),
)
table = scm.sample(observed, 1, 400, seed=9)
print("hidden:", [name for name, hidden in zip(table.names, table.is_hidden[0], strict=True) if hidden])
print("missing:", f"{table.is_missing.float().mean():.1%}")
table.to_pandas(0).head(5).round(2)

# %% [markdown]
# ## A stream into a training loop
#
# `scm.stream` is an endless `IterableDataset`: dealt to ranks and loader workers, drawn ahead, resumable.
# `scm.tabular_stream` yields what TabICL and its like pretrain on ([clients](../clients.md#tabicl)).

# %%
stream = scm.stream(prior, batch_size=16, seed=0, num_rows=(64, 256), prefetch=2)
for step, drawn in enumerate(stream):
    print(step, tuple(drawn.features.shape), tuple(drawn.target.shape))
    if step == 2:
        break
state = stream.state_dict()

# %% [markdown]
# Interrupted? Another process goes on with the very next datasets:

# %%
resumed = scm.stream(prior, batch_size=16, seed=0, num_rows=(64, 256))
resumed.load_state_dict(state)
print("goes on at dataset", next(iter(resumed)).first_index)

# %% [markdown]
# ## The same bits, everywhere
#
# A dataset is a function of (prior, seed, index, rows): not of threads, batches, or the processor.

# %%
whole = scm.sample(prior, 100, 400, seed=0, num_threads=1)
part = scm.sample(prior, 1, 400, seed=0, first_index=42, num_threads=2)
print("alone or in a batch:", torch.equal(part.values[0], whole.values[42]))
if torch.cuda.is_available():
    print("GPU or CPU:", torch.equal(scm.sample(prior, 100, 400, seed=0, device="cuda").values.cpu(), whole.values))
else:
    print('With a GPU: scm.sample(…, device="cuda") gives these bits too.')

# %% [markdown]
# ## Priors as files
#
# YAML and JSON; [every key](../reference/prior_yaml.md). `settx-fast prior show random_linear > my.yaml` is a start.

# %%
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "mine.yaml"
    named.write(path)
    print("read back as it was:", scm.Prior.read(path) == named)
print(named.to_yaml()[:430], "…")

# %% [markdown]
# A mistake is answered with the field, what was expected, and what there was:

# %%
try:
    scm.Prior.from_yaml("{type: Prior, num_variable: 5}")
except ValueError as error:
    print(error)
