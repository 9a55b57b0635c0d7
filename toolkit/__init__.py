"""Masked pretraining, embeddings, honest probes and restoration for people's own recordings."""

__version__ = "0.1.0"
