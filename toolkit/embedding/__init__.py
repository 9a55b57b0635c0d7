"""Streaming inference and its tables."""
