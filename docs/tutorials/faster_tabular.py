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
# # Faster tabular models
#
# TabICL and TabPFN read every column of a table as a set of rows; graph networks read every graph as a set of nodes. Inside is a
# Set Transformer, and `settx_fast.compat` computes its blocks from the weights that are there: one line changes. What it
# brings depends on the machine, the number of rows and the sizes of the sets. So it is measured here, on the machine that
# runs the notebook, after the results were compared; where it brings nothing, that is shown too.

# %%
# On Google Colab: Runtime → Change runtime type → GPU, if you like. Everything here runs on a CPU.
import importlib.util
import os
import subprocess
import sys

PACKAGES = {  # or "settx_fast[app] @ file:///content/NAME.whl", a wheel that you uploaded
    "settx_fast": "settx_fast[app]",
    "tabicl": "tabicl==2.2.0",
    "torch_geometric": "torch_geometric==2.8.1",
}
missing = [package for name, package in PACKAGES.items() if importlib.util.find_spec(name) is None]
if missing:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *missing], check=True)
verdict = subprocess.run(
    [sys.executable, "-m", "settx_fast.cli", "doctor", "--brief"], capture_output=True, text=True, check=False
)
print(verdict.stdout)

# %%
import copy
import statistics
import tempfile
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", "IProgress not found")  # of a progress bar that is not used

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from tabicl import TabICLClassifier
from tabicl._model.tabicl import TabICL
from torch_geometric.nn import SetTransformerAggregation

from settx_fast.compat import from_pyg, patch_tabicl

SMALL = os.environ.get("SETTX_SMALL") == "1"  # sizes for a test: everything runs, nothing is learned
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.set_num_threads(1)  # of a CPU: threads that wait for one another would be measured too
GREY, BLUE, RED, GREEN = "#808080", "#3b8bd0", "#d1605e", "#4a9b6e"  # seen on a light page and on a dark one
plt.rcParams.update(dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"))
plt.rcParams.update(
    dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY)
)
plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})

# %% [markdown]
# ## TabICL: the line
#
# `TabICLClassifier()` downloads its weights when it is fitted. So that this notebook needs no download, it saves a model of the
# released size with weights of its own: its classes mean nothing, but it takes the same time. With the real one leave
# `model_path` out; nothing else differs.

# %%
SIZE = {"zero_init": False}  # the others as released
if SMALL:
    SIZE |= {"embed_dim": 32, "col_num_blocks": 2, "col_num_inds": 8, "row_num_blocks": 1, "icl_num_blocks": 1}
torch.manual_seed(0)
model = TabICL(**SIZE).eval()
for parameter in model.parameters():
    if not parameter.any():  # zeros would hide a mistake
        torch.nn.init.normal_(parameter, std=0.05)
folder = tempfile.TemporaryDirectory()
checkpoint = Path(folder.name) / "tabicl.ckpt"
torch.save({"config": SIZE, "state_dict": model.state_dict()}, checkpoint)
print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} million weights")

# %%
X, y = load_breast_cancer(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, train_size=0.1 if SMALL else 0.8, random_state=0)
options = {"n_estimators": 1, "model_path": checkpoint, "device": DEVICE, "random_state": 0}
classifier = TabICLClassifier(**options).fit(X_train, y_train)
before = classifier.predict_proba(X_test)

patch_tabicl(classifier.model_)  # the line

after = classifier.predict_proba(X_test)
print(f"probabilities of {len(X_test)} rows differ by at most {np.abs(after - before).max():.1e}")

# %% [markdown]
# What was patched is TabICL's column stage, which computes an embedding of every cell. Parameters stay where they are, so
# saving, loading and fine-tuning go on as before.
#
# ## How it is measured
#
# The two take turns, because a machine is not equally fast all the time, and each ratio is one of neighbours. On a CPU the
# processor time of one thread counts, which other programs change little; on a GPU the time until the result is there.
# Results, and gradients where there are any, are compared first.


# %%
def now():
    """Seconds of the processor on a CPU, of the clock on a GPU that has finished."""
    if DEVICE == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def seconds(call, module, inputs):
    """How long one call takes."""
    start = now()
    call(module, **inputs)
    return now() - start


measured = {}


def compare(what, call, theirs, ours, rounds=2 if SMALL else 5, **inputs):
    """Ratios, theirs over ours, of `rounds` calls each; `call` returns tensors, which are the same within rounding."""
    results = zip(call(ours, **inputs), call(theirs, **inputs), strict=True)
    difference = max(float((a - b).abs().max() / b.abs().max()) for a, b in results)
    assert difference < 1e-3, f"{what}: results differ by {difference:.1e}"
    pairs = [(seconds(call, theirs, inputs), seconds(call, ours, inputs)) for _ in range(rounds)]
    ratios = [a / b for a, b in pairs]
    measured[what] = {
        "theirs, ms": 1000 * statistics.median(a for a, _ in pairs),
        "ours, ms": 1000 * statistics.median(b for _, b in pairs),
        "times faster": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "difference": difference,
    }
    return ratios


def prediction(module, x, **options):
    """The output."""
    with torch.no_grad():
        return [module(x, **options)]


def training_step(module, x, **options):
    """The output and the gradient of the input; those of all weights are computed too."""
    out = module(x, **options)
    upstream = torch.linspace(-1, 1, out.numel(), device=out.device).reshape(out.shape)
    return [out.detach(), torch.autograd.grad(out, [x, *module.parameters()], upstream)[0]]


PASSES = {"prediction": prediction, "training step": training_step}

# %% [markdown]
# ## TabICL's column stage, by number of rows
#
# Five columns. Four fifths of the rows are training rows, which the inducing points read; the rest are test rows.

# %%
plain = model.to(DEVICE).col_embedder.tf_col
fast = patch_tabicl(copy.deepcopy(plain))
COLUMNS, ROWS = (2, (16, 32)) if SMALL else (5, (100, 500, 2500))
by_rows = {}
for rows in ROWS:
    cells = torch.randn(1, COLUMNS, rows, model.embed_dim, device=DEVICE, requires_grad=True)
    for name, call in PASSES.items():
        what = f"TabICL's column stage, {rows:,} rows: {name}"
        by_rows[name, f"{rows:,} rows"] = compare(what, call, plain, fast, x=cells, train_size=rows * 4 // 5)

# %% [markdown]
# Time is one thing; the other is what a training step keeps from its forward pass for its backward pass, which decides how large
# a table fits:


# %%
def kept(part, cells):
    """MiB of tensors that autograd keeps, beyond parameters and input."""
    given = {tensor.untyped_storage().data_ptr() for tensor in (cells, *part.parameters())}
    sizes = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = part(cells, train_size=cells.shape[-2] * 4 // 5)
    del out
    return sum(sizes.values()) / 2**20


for whose, part in (("TabICL", plain), ("settx_fast", fast)):
    print(f"{rows:,} rows × {COLUMNS} columns: {whose:<10} keeps {kept(part, cells):7,.0f} MiB")

# %% [markdown]
# ## The whole classifier
#
# The column stage is one of three; the other two, attention between columns and between rows, stay TabICL's. With 30 columns
# and what surrounds the model:

# %%
unpatched = TabICLClassifier(**options).fit(X_train, y_train)


def classify(classifier):
    """Probabilities of the test rows."""
    return [torch.from_numpy(classifier.predict_proba(X_test))]


ratios = compare(f"TabICLClassifier, {len(X)} rows: predict_proba", classify, unpatched, classifier)
print(f"{statistics.median(ratios):.2f} times faster")

# %% [markdown]
# ## PyTorch Geometric: sets of uneven size
#
# `SetTransformerAggregation` reads each group of rows as a set. PyG pads every group to the largest; ours never does, takes
# `index` in any order, or `ptr`. So what counts is how uneven the groups are: the same number of rows, in groups that are
# all equal, or of which few are large.

# %%
aggregation = SetTransformerAggregation(64, num_seed_points=4, heads=4, layer_norm=True).to(DEVICE)
ours = from_pyg(aggregation)  # the line; or settx_fast.compat.SetTransformerAggregation(64, …) from the start

GROUPS = 8 if SMALL else 64
generator = torch.Generator().manual_seed(0)
by_spread = {}
for spread, deviation in {"equal": 0.0, "uneven": 0.7, "very uneven": 1.4}.items():
    sizes = (deviation * torch.randn(GROUPS, generator=generator)).exp()
    sizes = (48 * sizes / sizes.mean()).round().long().clamp(min=1)
    index = torch.arange(GROUPS).repeat_interleave(sizes).to(DEVICE)
    nodes = torch.randn(len(index), 64, generator=generator).to(DEVICE).requires_grad_()
    print(f"{spread:<11} {len(index)} rows; padded to the largest group of {sizes.max():>3}: {GROUPS * sizes.max():>6}")
    for name, call in PASSES.items():
        what = f"PyG's aggregation, {spread} groups: {name}"
        by_spread[name, spread] = compare(what, call, aggregation, ours, x=nodes, index=index)

# %% [markdown]
# ## What it brought
#
# Times faster: 1 is no difference, less than 1 means that the line makes it slower. A dot is a pair of neighbours.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), sharey=True)
for axis, ratios, title in zip(axes, (by_rows, by_spread), ("TabICL's column stage", "PyG's aggregation"), strict=True):
    cases = list(dict.fromkeys(case for _, case in ratios))
    for name, colour, beside in (("prediction", BLUE, -0.06), ("training step", RED, 0.06)):
        places = np.arange(len(cases)) + beside
        axis.plot(places, [statistics.median(ratios[name, case]) for case in cases], color=colour, label=name)
        for place, case in zip(places, cases, strict=True):
            axis.plot([place] * len(ratios[name, case]), ratios[name, case], "o", ms=4, color=colour, alpha=0.6)
    axis.axhline(1, color=GREY, lw=1, ls="--")
    axis.set_xticks(range(len(cases)), cases)
    axis.set_title(title, loc="left")
    axis.set_ylim(bottom=0)
axes[0].set_ylabel("times faster than the package's own")
axes[0].legend()
plt.show()

# %%
pd.DataFrame(measured).T.round(
    {"theirs, ms": 1, "ours, ms": 1, "times faster": 2, "least": 2, "most": 2, "difference": 7}
)

# %% [markdown]
# On the CPU that wrote these outputs, one thread, the line brings little or costs a little: TabICL and PyG call the same
# products of the same libraries, and ours keeps as much for the backward pass where recomputing would take longer. With PyG it
# pays as far as groups are uneven, and costs where all are equal. On a CPU change the line for sets of very uneven size, or not
# at all. Kernels of our own run on a GPU: run this notebook there before you decide. [Performance](../performance.md) has the
# block of this size on an H100 beside others, and says which readings are of an earlier tree.
#
# What is not covered, TabPFN and BayesFlow: [clients](../clients.md).
