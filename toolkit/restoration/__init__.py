"""Damage, repair, metrics and classical baselines."""
