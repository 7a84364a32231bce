"""Checkpoints: store (whole folders or none, standard library only) and content (what a training run puts in one)."""
