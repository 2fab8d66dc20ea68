"""The trained selector in one file, and the one that travels with the package."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from settx_fast.predictor.selector.committee import Committee
from settx_fast.predictor.selector.decision import Calibration
from settx_fast.predictor.selector.network import NetworkConfig, SelectorNetwork

SCHEMA = "settx_fast.selector/3"
SHIPPED = Path(__file__).parent.parent / "pretrained" / "selector.safetensors"


@dataclass(frozen=True)
class Selector:
    """Trained networks, what held-out datasets say of them, and their record on them (`measure.record`)."""

    network: Committee
    calibration: Calibration
    record: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write one safetensors file that holds all three."""
        about = {
            "schema": SCHEMA,
            "members": str(len(self.network.members)),
            "network": json.dumps(asdict(self.network.config)),
            "calibration": json.dumps(asdict(self.calibration)),
            "record": json.dumps(self.record),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: t.contiguous() for name, t in self.network.state_dict().items()}, path, about)

    @classmethod
    def load(cls, path: str | Path | None = None) -> Selector:
        """The selector in a file, by default the one in the package.

        Raises FileNotFoundError if there is none, ValueError if the file is damaged or of another version.
        """
        return _load(Path(path) if path is not None else SHIPPED)


@lru_cache(maxsize=4)
def _load(path: Path) -> Selector:
    if not path.is_file():
        raise FileNotFoundError(f"no trained selector in {path}: `make pretrained` writes it")
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about.get("schema") != SCHEMA:
            raise ValueError(f"schema {about.get('schema')!r}")
        config = NetworkConfig(**json.loads(about["network"]))
        network = Committee([SelectorNetwork(config) for _ in range(int(about["members"]))])
        network.load_state_dict(tensors)
        calibration = Calibration(**{k: _tuple(v) for k, v in json.loads(about["calibration"]).items()})
        return Selector(network.eval(), calibration, json.loads(about["record"]))
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        detail = str(error).strip().splitlines()[0]
        raise ValueError(f"{path}: expected a selector of this version of settx_fast, got {detail}") from error


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
