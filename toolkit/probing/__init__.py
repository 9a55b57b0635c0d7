"""Honest scores of frozen features against labels: tasks, group-wise folds, heads, metrics, intervals, baselines."""
