"""Induced set attention on many small sets in one launch, forward."""
