"""Tokens, tokenizers, positions, the encoder and its decoder."""
