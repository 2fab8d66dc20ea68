"""Induced set attention as a drop-in module, on sets of different sizes."""

import torch

from settx_fast import ISAB, PMA

isab = ISAB(3, 64, 4, 16, ln=True)  # dim_in, dim_out, heads, inducing points: the original's arguments
pool = PMA(64, 4, 1)

points = torch.randn(8, 1000, 3)
lengths = torch.randint(10, 1000, (8,))  # elements of each set; the rest is padding and has no say
features = isab(points, lengths=lengths)  # (8, 1000, 64), linear in the number of elements
summary = pool(features, lengths=lengths)  # (8, 1, 64)
print(f"{tuple(points.shape)} → {tuple(features.shape)} → {tuple(summary.shape)}")
