"""Drop-in modules of the Set Transformer: parameters and one functional call each.

Positional arguments, parameter names, initialisation and numbers are those of the original code (Lee et al. 2019,
arXiv:1810.00825), so a state_dict of either loads into the other. Ragged sets, device and dtype, and the block family
of `BlockSpec` come through keywords. Inputs are (B, N, C) tensors, B perhaps several dimensions, or jagged nested
tensors; `lengths` (B,) or a bool `mask` (B, N), True for an element, say what belongs to a padded set.
"""

from settx_fast.nn.blocks import ISAB, MAB, PMA, SAB, BlockOptions
from settx_fast.nn.models import DeepSet, SetTransformer

__all__ = ["ISAB", "MAB", "PMA", "SAB", "BlockOptions", "DeepSet", "SetTransformer"]
