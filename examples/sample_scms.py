"""A thousand datasets, each from a structural causal model of its own, and what is true of them."""

from settx_fast import scm
from settx_fast.scm import properties

prior = scm.Prior(num_variables=(4, 8), noise=("gaussian", "laplace"), source_environments=3,
                  target_interventions=(scm.Intervention("shift", (1.0, 2.0)),))  # fmt: skip
batch = scm.sample(prior, 1000, 500, seed=0)
again = scm.sample(prior, 10, 500, seed=0, first_index=990)
assert (again.values == batch.values[990:]).all()  # a dataset depends on seed and index alone

known = properties.compute(batch)
print(batch)
for name, risk in zip(("erm", "causal", "anticausal"), known.risk.median(0).values.tolist(), strict=True):
    print(f"median risk of {name} in the target environment: {risk:.2f}")
