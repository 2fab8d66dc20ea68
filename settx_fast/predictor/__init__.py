"""Predicts a dataset's properties, and which learning framework carries over; trained on sampled datasets.

model = FrameworkSelector().fit(X, y, environments=site, X_deploy=X_new)                # chooses, fits, predicts
table = table_from_frame(frame, target="outcome", environment="site", deploy="coast")   # or read_table(path, …)
prediction = predict(table)                             # or predict(table, "a directory that `train` wrote")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from settx_fast.predictor.prediction import predict
    from settx_fast.predictor.selector.estimator import FrameworkSelector
    from settx_fast.predictor.table import read_table, table_from_frame

__all__ = ["FrameworkSelector", "predict", "read_table", "table_from_frame"]
_HOMES = {"FrameworkSelector": "selector.estimator", "predict": "prediction"}


def __getattr__(name: str) -> Any:
    """Exports are imported on first use: modules of this package are imported without all others."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f"{__name__}.{_HOMES.get(name, 'table')}")
    globals()[name] = getattr(home, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
