"""Set Transformers of other packages on our blocks: their weights in, a module of ours out, or their model patched.

`from_pyg`, `from_tabicl`, `from_tabpfn` and `from_bayesflow` copy weights into modules of `settx_fast.nn`;
`patch_tabicl` and `patch_tabpfn` have the column embedder of a model compute by our blocks from where its weights are;
`SetTransformerAggregation` is PyG's, on `index` or `ptr`, without padding. The packages are imported when a function is
called; ImportError says what to install. `docs/clients.md` has the versions that are tested and what is not covered.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from settx_fast.compat.bayesflow import from_bayesflow
    from settx_fast.compat.pyg import SetTransformerAggregation, from_pyg
    from settx_fast.compat.scaling import QueryScaling, ScaledISAB
    from settx_fast.compat.tabicl import from_tabicl, patch_tabicl
    from settx_fast.compat.tabpfn import from_tabpfn, patch_tabpfn

__all__ = [
    "QueryScaling",
    "ScaledISAB",
    "SetTransformerAggregation",
    "from_bayesflow",
    "from_pyg",
    "from_tabicl",
    "from_tabpfn",
    "patch_tabicl",
    "patch_tabpfn",
]

_HOMES = {
    "QueryScaling": "scaling",
    "ScaledISAB": "scaling",
    "SetTransformerAggregation": "pyg",
    "from_pyg": "pyg",
    "from_bayesflow": "bayesflow",
    "from_tabicl": "tabicl",
    "patch_tabicl": "tabicl",
    "from_tabpfn": "tabpfn",
    "patch_tabpfn": "tabpfn",
}
_PACKAGES = ("torch_geometric", "tabicl", "tabpfn", "bayesflow", "keras")


def __getattr__(name: str) -> Any:
    """Exports are imported on first use, and the package that each is for with it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"settx_fast.compat.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in _PACKAGES:
            raise
        message = f"settx_fast.compat.{name} needs {package}, which is not installed: pip install {package}"
        raise ModuleNotFoundError(message, name=package) from error
    globals()[name] = getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
