"""The predictor from Python: which framework to use on a data frame."""

import numpy as np
import pandas as pd

from settx_fast.predictor.prediction import predict
from settx_fast.predictor.table import table_from_frame

generator = np.random.default_rng(0)
site = np.repeat(["north", "south", "coast"], 300)
dose = generator.normal(size=900) + (site == "south")
outcome = 0.8 * dose + generator.normal(size=900)
marker = outcome + np.where(site == "coast", 2.0, 0.2) * generator.normal(size=900)
frame = pd.DataFrame({"dose": dose, "marker": marker, "site": site, "outcome": outcome})
frame.loc[frame["site"] == "coast", "outcome"] = np.nan  # nothing is labelled where the model is to be deployed

table = table_from_frame(frame, target="outcome", environment="site", deploy="coast")
prediction = predict(table)
for column in prediction.columns:
    print(f"{column.name}: {column.role} ({column.probability[column.role]:.0%})")
risks = {each.title: round(each.risk.value, 2) for each in prediction.frameworks}
print(f"use {prediction.recommended}; predicted risks {risks}")
print(*prediction.advice, sep="\n")
