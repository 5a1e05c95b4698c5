"""Selective Amnesia on a conditional VAE: train it, make it forget, measure the residue."""

__version__ = "0.1.0"
