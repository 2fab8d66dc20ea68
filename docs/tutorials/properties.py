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
# # Predict a dataset's properties
#
# A model usually reads a row and says something about that row. Here it reads a whole dataset, as a set of rows, and says
# something about the distribution that it came from: a *property*. To train it you need thousands of datasets whose properties
# are known. Nobody has labelled any, so they are drawn: each from a structural causal model (SCM) of its own.

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
import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch.nn import functional as F

from settx_fast import SetTransformer, scm

SMALL = os.environ.get("SETTX_SMALL") == "1"  # sizes for a test: everything runs, nothing is learned
GREY, BLUE, RED, GREEN = "#808080", "#3b8bd0", "#d1605e", "#4a9b6e"  # seen on a light page and on a dark one
plt.rcParams.update(dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"))
plt.rcParams.update(
    dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY)
)
plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})


# %% [markdown]
# ## A list of datasets, each from an SCM of its own
#
# The prior says what SCMs there may be. This one has three variables, X → Y → Z. The two effects and the noise are drawn anew
# for every dataset; in the deployment the noises of X and of Z change. Y is to be predicted.

# %%
prior = scm.presets.chain()
print(prior)

# %%
batch = scm.sample(prior, num_datasets=4, num_rows=200, seed=0)
datasets = [batch.to_pandas(number) for number in range(4)]
datasets[0].groupby("is_target_environment").head(3)

# %% [markdown]
# ## Their properties
#
# What is true of a dataset follows from its SCM, not from its rows: no estimate, no error.

# %%
known = scm.properties.compute(batch)
pd.DataFrame(
    {
        "effect X → Y": known.total_effect[:, 0],
        "effect Y → Z": known.direct_effect_of_target[:, 2],
        "noise to signal": known.noise_to_signal,
        "mechanism shift": known.mechanism_shift,
        "risk of causal ERM": known.risk[:, 1],
        "risk of anticausal ERM": known.risk[:, 2],
    }
).round(3)

# %% [markdown]
# The same slope can be seen in the rows, with the error that 100 rows have:

# %%
figure, axes = plt.subplots(1, 4, figsize=(10, 2.6), sharex=True, sharey=True)
for number, axis in enumerate(axes):
    source = datasets[number][~datasets[number]["is_target_environment"]]
    effect = known.total_effect[number, 0].item()
    axis.scatter(source["X"], source["Y"], s=6, color=GREY)
    axis.plot([-3, 3], [-3 * effect, 3 * effect], color=RED)
    axis.set_title(f"effect {effect:.2f}", loc="left")
    axis.set_xlabel("X")
axes[0].set_ylabel("Y")
plt.show()

# %% [markdown]
# ## Elements
#
# A dataset becomes a set: one element a row, in any order. An element holds X, Y and Z, whether the row is from the
# deployment (there Y is not known), and the products of every two columns: their mean over the set is a covariance, so the
# model need not learn to multiply.


# %%
def elements(batch):
    """(B, R, 14): three columns, a flag, and the products of every two of them."""
    hidden = batch.is_target_row
    x, z = batch.features.unbind(-1)
    row = torch.stack([x, batch.target.masked_fill(hidden, 0), z, hidden.float()], -1)
    left, right = torch.triu_indices(4, 4)
    return torch.cat([row, row[..., left] * row[..., right]], -1)


def truth(batch):
    """(B, 2): the effects X → Y and Y → Z."""
    known = scm.properties.compute(batch)
    return torch.stack([known.total_effect[:, 0], known.direct_effect_of_target[:, 2]], -1)


elements(batch).shape, truth(batch)

# %% [markdown]
# ## Training, with three losses
#
# `scm.stream` gives fresh batches without end: no dataset is seen twice, so there is no overfitting and no epoch. The model
# says two numbers per effect, a centre and the logarithm of a variance, which only the third loss uses.

# %%
STEPS, BATCH, HELD_OUT = (4, 8, 32) if SMALL else (400, 32, 1000)
LOSSES = {
    "mse": lambda centre, log_variance, true: F.mse_loss(centre, true),
    "mae": lambda centre, log_variance, true: F.l1_loss(centre, true),
    "gaussian nll": lambda centre, log_variance, true: F.gaussian_nll_loss(centre, true, log_variance.exp()),
}
held_out = scm.sample(prior, HELD_OUT, 200, seed=1)
inputs, true = elements(held_out), truth(held_out)


def r_squared(predicted):
    """(2,): 1 for a perfect prediction, 0 for one that is no better than the mean."""
    return 1 - (predicted - true).square().mean(0) / true.var(0, correction=0)


def train(loss_of):
    """The model, its training losses, and its held-out R² every so often."""
    torch.manual_seed(0)
    model = SetTransformer(dim_input=14, num_outputs=1, dim_output=4, num_inds=8, dim_hidden=32, ln=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses, scores = [], {}
    for step, batch in enumerate(scm.stream(prior, BATCH, seed=0, num_rows=200)):
        if step % max(1, STEPS // 10) == 0 or step == STEPS:
            with torch.no_grad():
                scores[step] = r_squared(model(inputs)[:, 0, :2]).mean().item()
        if step == STEPS:
            return model, losses, scores
        centre, log_variance = model(elements(batch))[:, 0].split(2, -1)
        loss = loss_of(centre, log_variance.clamp(-10, 5), truth(batch))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())


runs = {name: train(loss_of) for name, loss_of in LOSSES.items()}

# %% [markdown]
# ## The loss curve
#
# Losses have different units: left, each against its own. What can be compared is one measure for all, on datasets that were
# not trained on: right.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
for (name, (_, losses, scores)), colour in zip(runs.items(), (BLUE, RED, GREEN), strict=True):
    smooth = torch.tensor(losses).unfold(0, min(20, STEPS), 1).mean(1)
    left.plot(smooth - smooth.min() + 1e-3, color=colour, label=name)
    right.plot(list(scores), list(scores.values()), "o-", color=colour, label=name)
left.set_yscale("log")
left.set_ylabel("training loss above its least")
right.set_ylabel("R² on held-out datasets")
right.set_ylim(-0.1, 1.02)
for axis in (left, right):
    axis.set_xlabel("step")
right.legend()
plt.show()

# %%
with torch.no_grad():
    predicted = {name: model(inputs)[:, 0, :2] for name, (model, _, _) in runs.items()}
source = ~held_out.is_target_row
x, y, z = (held_out.values[..., v].where(source, 0) for v in range(3))
slopes = torch.stack([(x * y).sum(1) / (x * x).sum(1), (y * z).sum(1) / (y * y).sum(1)], -1)
rows = predicted | {"least squares, told the graph": slopes, "the mean": true.mean(0).expand_as(true)}
table = pd.DataFrame(
    [[*r_squared(each).tolist(), *(each - true).abs().mean(0).tolist()] for each in rows.values()],
    index=list(rows),
    columns=["R², X → Y", "R², Y → Z", "mean error, X → Y", "mean error, Y → Z"],
)
table.round(3)

# %% [markdown]
# The last lines are what to compare with. The mean needs no data. Least squares is told which variable causes which: it is
# sharp where the cause moves much, and far off in the few datasets where it hardly moves, which R² counts heavily. The network
# has learned from the prior what effects there are. It earns its place where nobody has a formula at all, as for the role of
# every column, or the risk of a framework in a deployment without labels.
#
# The third loss also says how sure it is. Where it is least sure, errors are largest:

# %%
with torch.no_grad():
    centre, log_variance = runs["gaussian nll"][0](inputs)[:, 0].split(2, -1)
stated = (0.5 * log_variance).exp().flatten()
error = (centre - true).abs().flatten()
quarters = stated.argsort().chunk(4)
pd.DataFrame(
    {
        "stated deviation": [stated[q].mean().item() for q in quarters],
        "mean error": [error[q].mean().item() for q in quarters],
    },
    index=["surest quarter", "second", "third", "least sure"],
).round(3)

# %% [markdown]
# ## Why an accuracy of a regression is nonsense
#
# An effect is a number. "How many are right?" has no answer until somebody says how near is right, and whoever says it
# chooses the result. The same predictions, and the mean, which has learned nothing:

# %%
tolerances = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5)
pd.DataFrame(
    {
        name: [f"{((each - true).abs() <= t).float().mean():.0%}" for t in tolerances]
        for name, each in (("mse", predicted["mse"]), ("the mean", true.mean(0)))
    },
    index=[f"within {t}" for t in tolerances],
)

# %% [markdown]
# Exactly right: never. Within a half: the mean is "right" nearly always. And a change of unit changes every line of the
# table, while R² stays. So report R² against the mean, an error in the units of the property, and whether intervals hold what
# they say; keep accuracy for classes, beside the share of the commonest one.
#
# ## All properties
#
# `settx-fast train random_linear --out my_model` trains on all properties of random SCMs, roles and risks included, resumes
# where it was interrupted, and `settx-fast evaluate my_model` reports each with its record. Your own prior is a YAML file:
# [sampler cookbook](sampler.ipynb).
