"""Predicts a dataset's properties with a Set Transformer trained on sampled datasets."""
