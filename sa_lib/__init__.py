"""Selective Amnesia on a conditional VAE: train it, make it forget, measure what is left."""

__version__ = "0.1.0"
