"""Measurements: `python -m benchmarks.run`, and `python -m benchmarks.plot` to show them."""
