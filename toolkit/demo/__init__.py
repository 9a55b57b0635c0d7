"""Synthetic recordings for a first run without any data of one's own."""
