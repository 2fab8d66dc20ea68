"""Induced set attention and structural causal models at the speed of the machine, and a predictor that joins them.

`ISAB` and its relatives are drop-in modules of the Set Transformer (Lee et al. 2019); `functional` holds the operations
under them; `settx_fast.scm` samples datasets; `settx_fast.predictor` learns their properties.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from settx_fast import functional
    from settx_fast.attention.block import BlockSpec, BlockWeights
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


def __getattr__(name: str) -> Any:
    """Exports are imported on first use: the command line answers before torch is loaded."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "functional":
        return import_module("settx_fast.functional")
    home = import_module("settx_fast.attention.block" if name.startswith("Block") else "settx_fast.nn")
    globals()[name] = getattr(home, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
