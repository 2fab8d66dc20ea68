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
# # A set transformer as a drop-in
#
# `ISAB`, `PMA`, `SAB` and `SetTransformer` have the names, arguments and numbers of the original code (Lee et al. 2019,
# [arXiv:1810.00825](https://arxiv.org/abs/1810.00825)). This notebook does its two first tasks, and then what it could not:
# sets of any size, half precision, `torch.compile`.

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
import timeit

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Ellipse

from settx_fast import ISAB, SAB, DeepSet, SetTransformer

SMALL = os.environ.get("SETTX_SMALL") == "1"  # sizes for a test: everything runs, nothing is learned
GREY, BLUE, RED, GREEN = "#808080", "#3b8bd0", "#d1605e", "#4a9b6e"  # seen on a light page and on a dark one
plt.rcParams.update(dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"))
plt.rcParams.update(
    dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY)
)
plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})

# %% [markdown]
# ## The largest of a set
#
# The first task of the paper: sets of 1 to 10 numbers between 0 and 100; say the largest. Sets differ in size, so they are
# padded, and `lengths` says how many elements are real. What lies beyond has no say, whatever it holds.

# %%
generator = torch.Generator().manual_seed(0)


def sets_of_numbers(count):
    """(count, 10, 1) numbers, (count,) lengths, (count, 1, 1) largest."""
    x = 100 * torch.rand(count, 10, 1, generator=generator)
    lengths = torch.randint(1, 11, (count,), generator=generator)
    inside = torch.arange(10) < lengths[:, None]
    return x, lengths, x.masked_fill(~inside[..., None], -1).amax(1, keepdim=True)


x, lengths, largest = sets_of_numbers(3)
for numbers, length, maximum in zip(x, lengths, largest, strict=True):
    print(numbers[:length].flatten().round().int().tolist(), "→", round(maximum.item()))

# %% [markdown]
# `SetTransformer` has the original's arguments. `DeepSet` is the paper's baseline: a network per element, their mean, a
# network.

# %%
torch.manual_seed(0)
models = {
    "SetTransformer": SetTransformer(dim_input=1, num_outputs=1, dim_output=1, num_inds=16, dim_hidden=64),
    "DeepSet": DeepSet(dim_input=1, num_outputs=1, dim_output=1, dim_hidden=64),
}
STEPS = 3 if SMALL else 320


def train(model):
    """Absolute errors of every step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    errors = []
    for _ in range(STEPS):
        x, lengths, largest = sets_of_numbers(128)
        loss = (100 * model(x / 100, lengths=lengths) - largest).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    return errors


errors = {name: train(model) for name, model in models.items()}

# %%
for (name, values), colour in zip(errors.items(), (BLUE, RED), strict=True):
    smooth = torch.tensor(values).unfold(0, min(20, STEPS), 1).mean(1)
    plt.plot(smooth, colour, label=name)
plt.yscale("log")
plt.xlabel("step")
plt.ylabel("mean absolute error (numbers up to 100)")
plt.legend()
plt.title("The largest of a set", loc="left")
plt.show()
# %% [markdown]
# A mean blurs what a maximum needs; attention can look at one element. On sets that neither has seen:

# %%
x, lengths, largest = sets_of_numbers(2000)
with torch.no_grad():
    for name, model in models.items():
        print(f"{name:<15} {(100 * model(x / 100, lengths=lengths) - largest).abs().mean():.2f}")

# %% [markdown]
# ## A mixture of Gaussians, at a glance
#
# The paper's second task. An element is a point of the plane; the model reads a set of points and returns the parameters of
# four Gaussians, in one forward pass, without fitting anything to that set. The loss is the negative log likelihood. Each of
# the four outputs starts from a corner of its own, or they would all do the same for a long time.

# %%
CLUSTERS, POINTS = 4, 60 if SMALL else 100


def mixtures(count):
    """(count, POINTS, 2) points, each set from a mixture of its own, and the log likelihood under the true parameters."""
    mean = 8 * torch.rand(count, CLUSTERS, 2, generator=generator) - 4
    weight = torch.ones(count, CLUSTERS) / CLUSTERS
    which = torch.randint(CLUSTERS, (count, POINTS), generator=generator)
    centre = mean.gather(1, which[..., None].expand(-1, -1, 2))
    points = centre + 0.4 * torch.randn(count, POINTS, 2, generator=generator)
    return points, log_likelihood(points, weight.log(), mean, torch.full_like(mean, 0.4))


def log_likelihood(points, log_weight, mean, deviation):
    """Mean over points of log Σ weight · N(point; mean, deviation²), per set."""
    normal = torch.distributions.Normal(mean[:, None], deviation[:, None])
    each = normal.log_prob(points[:, :, None]).sum(-1) + log_weight[:, None]
    return each.logsumexp(-1).mean(-1)


CORNERS = torch.tensor([[-2.0, -2.0], [-2.0, 2.0], [2.0, -2.0], [2.0, 2.0]])


def parameters(output):
    """(B, 4, 5) numbers of the model as log weights, means and standard deviations."""
    return (
        output[..., 0].log_softmax(-1),
        CORNERS + output[..., 1:3],
        torch.nn.functional.softplus(output[..., 3:5]) + 0.05,
    )


# %%
torch.manual_seed(0)
clusterer = SetTransformer(dim_input=2, num_outputs=CLUSTERS, dim_output=5, num_inds=16, dim_hidden=64, ln=True)
optimizer = torch.optim.Adam(clusterer.parameters(), lr=2e-3)
gap = []
for _ in range(STEPS):
    points, truth = mixtures(32)
    likelihood = log_likelihood(points, *parameters(clusterer(points)))
    optimizer.zero_grad()
    (-likelihood.mean()).backward()
    optimizer.step()
    gap.append((truth - likelihood).mean().item())
print(f"nats per point below the true parameters: {gap[0]:.2f} at first, {sum(gap[-20:]) / len(gap[-20:]):.2f} at last")

# %% [markdown]
# Three sets it has never seen, and what it says of them, two standard deviations around each mean. The paper trains a
# hundred times as long; the way is the same.

# %%
points, _ = mixtures(3)
with torch.no_grad():
    log_weight, mean, deviation = parameters(clusterer(points))
figure, axes = plt.subplots(1, 3, figsize=(9, 3), sharex=True, sharey=True)
for number, axis in enumerate(axes):
    axis.scatter(*points[number].T, s=5, color=GREY, alpha=0.6)
    for k in range(CLUSTERS):
        size = 4 * deviation[number, k]
        opacity = min(1.0, 4 * log_weight[number, k].exp().item())
        axis.add_patch(Ellipse(mean[number, k].tolist(), *size.tolist(), fill=False, color=RED, lw=2, alpha=opacity))
    axis.set_aspect("equal")
plt.show()

# %% [markdown]
# ## Sets of any size, three ways
#
# `lengths`, a bool `mask` (True for an element, the reverse of `key_padding_mask`), or a jagged nested tensor: the same
# numbers. Rows outside a set are zero.

# %%
torch.manual_seed(0)
isab = ISAB(dim_in=3, dim_out=64, num_heads=4, num_inds=16, ln=True)
lengths = torch.tensor([5, 50, 500])
x = torch.randn(3, 500, 3)
inside = torch.arange(500) < lengths[:, None]
x[~inside] = torch.nan  # what is outside may be anything
jagged = torch.nested.nested_tensor([rows[:n] for rows, n in zip(x, lengths, strict=True)], layout=torch.jagged)

with torch.no_grad():
    by_lengths, by_mask, by_jagged = isab(x, lengths=lengths), isab(x, mask=inside), isab(jagged)
print("mask against lengths:  ", (by_mask - by_lengths).abs().max().item())
padded = torch.nested.to_padded_tensor(by_jagged, 0.0, output_size=by_lengths.shape)
print("jagged against lengths:", (padded - by_lengths).abs().max().item())
print("outside a set:         ", by_lengths[~inside].abs().max().item())

# %% [markdown]
# ## Half precision and `torch.compile`
#
# `isab.to(torch.bfloat16)` or autocast, as with any module; softmax and norms are computed in fp32 inside. Under
# `torch.compile` the block is one operator: no graph break. (`aot_eager` here, because inductor wants a C++ compiler on a CPU.)

# %%
x = torch.randn(8, 300, 3)
with torch.no_grad():
    exact = isab(x)
    with torch.autocast("cpu", torch.bfloat16):
        half = isab(x)
    compiled = torch.compile(isab, fullgraph=True, backend="inductor" if torch.cuda.is_available() else "aot_eager")(x)
print(f"bfloat16: {(half - exact).square().mean().sqrt() / exact.square().mean().sqrt():.4f} of the output's size")
print(f"compiled: {(compiled - exact).abs().max().item():.1e}")

# %% [markdown]
# ## Weights of the original
#
# Parameter names and shapes are those of the authors' code, so a `state_dict` of either loads into the other.

# %%
for name, parameter in isab.named_parameters():
    print(f"{name:<18} {tuple(parameter.shape)}")

# %% [markdown]
# ## Linear in the size of a set
#
# A set attends to itself through 16 inducing points. `SAB`, which compares all pairs, pays for each of them.

# %%
sab = SAB(dim_in=3, dim_out=64, num_heads=4, ln=True)
sizes = (256, 512) if SMALL else (500, 1000, 2000, 4000, 8000)
seconds = {}
for name, block in (("ISAB", isab), ("SAB", sab)):
    for size in sizes:
        x = torch.randn(1, size, 3)
        with torch.no_grad():
            times = timeit.repeat(lambda block=block, x=x: block(x), number=1, repeat=5)
        seconds[name, size] = min(times)
for name, colour in (("ISAB", BLUE), ("SAB", RED)):
    plt.plot(sizes, [1000 * seconds[name, size] for size in sizes], "o-", color=colour, label=name)
plt.loglog()
plt.xticks(sizes, sizes)
plt.minorticks_off()
plt.xlabel("elements")
plt.ylabel("ms, forward, one set")
plt.legend()
plt.show()

# %% [markdown]
# Next: [predict a dataset's properties](properties.ipynb), where an element is a row and a set is a table. All options of a
# block: [reference](../reference/attention.md).
