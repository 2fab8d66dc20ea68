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
# # Which framework for my table
#
# You have a table whose rows come from several places, and want to predict for another place, from which you have rows but no
# labels. Ordinary regression on everything (ERM) is one *framework*; there are others, made for distributions that change. This
# notebook chooses one for a real table, says what the choice is worth, and when there is none to be had.

# %%
# On Google Colab: Runtime → Change runtime type → GPU, if you like. Everything here runs on a CPU.
import importlib.util
import os
import subprocess
import sys

PACKAGES = ["settx_fast[app]", "palmerpenguins"]  # or "settx_fast[app] @ file:///content/NAME.whl"
if importlib.util.find_spec("settx_fast") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
verdict = subprocess.run(
    [sys.executable, "-m", "settx_fast.cli", "doctor", "--brief"], capture_output=True, text=True, check=False
)
print(verdict.stdout)

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from settx_fast.predictor import FrameworkSelector, frameworks, table_from_frame

SMALL = os.environ.get("SETTX_SMALL") == "1"  # sizes for a test: everything runs, nothing is learned
GREY, BLUE, RED, GREEN = "#808080", "#3b8bd0", "#d1605e", "#4a9b6e"  # seen on a light page and on a dark one
plt.rcParams.update(dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"))
plt.rcParams.update(
    dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY)
)
plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})


# %% [markdown]
# ## The table
#
# Palmer penguins (Horst et al. 2020): 344 birds from three islands. Predict the body mass from the other columns, for an
# island where nobody weighed them.

# %%
from palmerpenguins import load_penguins

penguins = load_penguins()
penguins.groupby("island", observed=True).agg(
    rows=("species", "size"), species=("species", "unique"), body_mass_g=("body_mass_g", "mean")
).round(0)

# %% [markdown]
# Words, gaps and flags become numbers; every change to the table is noted. Torgersen is the deployment: its labels are held
# back until the end.

# %%
table = table_from_frame(penguins, target="body_mass_g", environment="island", deploy="Torgersen")
print(*table.notes, sep="\n")
rows = pd.DataFrame(table.features, columns=table.feature_names)
rows.head(3).round(1)

# %%
known = ~table.is_deploy & table.is_labelled
X, y = rows[known], table.target[known]
site = np.array(table.environment_names)[table.environment[known]]
X_new = rows[table.is_deploy]
print(f"{len(X)} labelled rows of {' and '.join(sorted(set(site)))}, {len(X_new)} rows of Torgersen")

# %% [markdown]
# ## The choice
#
# `FrameworkSelector` is a scikit-learn regressor. `fit` describes the table as a careful analyst would, ranks fifteen
# frameworks by the risk it expects in the deployment, and fits the chosen one.

# %%
model = FrameworkSelector().fit(X, y, environments=site, X_deploy=X_new)
print("use:", frameworks.TITLES[model.recommended_])
print(model.explain())

# %% [markdown]
# Expected risks, with 90 % intervals, as root mean squared errors in grams:

# %%
ranking = pd.DataFrame(
    {
        "framework": frameworks.TITLES[entry.framework],
        "expected": entry.risk.value**0.5,
        "low": entry.risk.low**0.5,
        "high": entry.risk.high**0.5,
        "left-out sources": np.nan if entry.measured is None else entry.measured**0.5,
    }
    for entry in model.ranking_
)
ranking.round(0)

# %%
figure, axis = plt.subplots(figsize=(7, 4.2))
place = np.arange(len(ranking))[::-1]
axis.hlines(place, ranking["low"], ranking["high"], color=BLUE, lw=2)
axis.plot(ranking["expected"], place, "o", color=BLUE, label="expected in the deployment, 90 %")
axis.plot(ranking["left-out sources"], place, "x", color=RED, label="measured: every source left out in turn")
axis.set_yticks(place, ranking["framework"])
axis.set_xscale("log")
axis.set_xticks([200, 500, 1000, 2000], ["200", "500", "1000", "2000"])
axis.minorticks_off()
axis.set_xlabel("root mean squared error, g")
axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15))
plt.show()

# %% [markdown]
# The intervals overlap: the table does not tell the frameworks apart by much. That is an answer too.
#
# ## What the answer is worth
#
# Here the labels of the deployment do exist. Fit every framework on the sources and look at what it really costs there:

# %%
inside = table.is_deploy & table.is_labelled


def real_error(framework):
    """Root mean squared error on the labelled rows of the deployment."""
    predicted = framework.predict(rows[inside])
    return float(np.mean((predicted - table.target[inside]) ** 2) ** 0.5)


real = {name: real_error(frameworks.estimator(name).fit(X, y, site, X_new)) for name in frameworks.FRAMEWORKS}
best = min(real, key=real.get)
for what, name in (("chosen", model.recommended_), ("always ERM", "erm"), ("best, in hindsight", best)):
    print(f"{what:<20} {frameworks.TITLES[name]:<32} {real[name]:5.0f} g")

# %% [markdown]
# One deployment proves nothing. Each island in turn, the risk of the choice over that of the best framework in hindsight:

# %%
islands = ["Torgersen"] if SMALL else table.environment_names
outcomes = []
for island in islands:
    each = table_from_frame(penguins, target="body_mass_g", environment="island", deploy=island)
    sources, deployed = ~each.is_deploy & each.is_labelled, each.is_deploy & each.is_labelled
    given = each.features[sources], each.target[sources], each.environment[sources], each.features[each.is_deploy]
    chosen = FrameworkSelector().fit(*given)
    fitted = {name: frameworks.estimator(name).fit(*given) for name in frameworks.FRAMEWORKS}
    risk = {
        name: np.mean((model.predict(each.features[deployed]) - each.target[deployed]) ** 2)
        for name, model in fitted.items()
    }
    least = min(risk.values())
    outcomes.append(
        {
            "deployment": island,
            "chosen": frameworks.TITLES[chosen.recommended_],
            "abstained": chosen.recommendation_.abstained,
            "choice over best": risk[chosen.recommended_] / least,
            "ERM over best": risk["erm"] / least,
            "best": frameworks.TITLES[min(risk, key=risk.get)],
        }
    )
pd.DataFrame(outcomes).round(2)

# %% [markdown]
# Two sources are few, and a choice can cost more than ERM. What it gains over many tables, simulated and real: [what a choice is worth](../evaluation.md), and the
# [model card](../../settx_fast/predictor/pretrained/MODEL_CARD.md).
#
# ## When it abstains
#
# The selector knows what tables it was trained on. Where yours is unlike them it recommends ERM and says why. One source
# only: nothing varied, so nothing can be learned about what varies.

# %%
alone = site == "Dream"
single = FrameworkSelector().fit(X[alone], y[alone], environments=site[alone], X_deploy=X_new)
print("use:", single.recommended_, "| abstained:", single.recommendation_.abstained)
print(single.explain())

# %% [markdown]
# Columns on a scale that no training table had, such as a deployment that lies far away from every source:

# %%
far = FrameworkSelector().fit(X, y, environments=site, X_deploy=X_new + 100 * X.std())
print("use:", far.recommended_, "| abstained:", far.recommendation_.abstained)
print(far.explain())

# %% [markdown]
# And what no table can tell: if something changes in the deployment that never changed between the sources, and that cannot
# be seen in the columns, no framework and no selector knows. Ask whoever knows the place.
#
# ## The same from a shell
#
# `settx-fast recommend penguins.csv --target body_mass_g --environment island --deploy Torgersen`, with `--json` for programs.
