"""Induced set attention and structural causal models at the speed of the machine, and a predictor that joins them.

`ISAB` and its relatives are drop-in modules of the Set Transformer (Lee et al. 2019); `functional` holds the operations
under them; `settx_fast.scm` samples datasets; `settx_fast.predictor` learns their properties.
"""

from settx_fast import functional
from settx_fast._block import BlockSpec, BlockWeights
from settx_fast.nn import ISAB, MAB, PMA, SAB, DeepSet, SetTransformer

__version__ = "0.1.0"

__all__ = [
    "ISAB",
    "MAB",
    "PMA",
    "SAB",
    "BlockSpec",
    "BlockWeights",
    "DeepSet",
    "SetTransformer",
    "functional",
]
