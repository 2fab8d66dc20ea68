"""Measurements: `python -m benchmarks.isab`, `python -m benchmarks.scm`."""
