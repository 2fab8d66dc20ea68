"""The clients' packages from build/clients, where `make build/clients` installed them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CLIENTS = Path(__file__).parents[2] / "build" / "clients"

os.environ.setdefault("KERAS_BACKEND", "torch")
if CLIENTS.is_dir():
    sys.path.append(str(CLIENTS))  # behind the environment's own: torch and NumPy stay what they are
