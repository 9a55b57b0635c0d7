"""Samples to tokens and back: one file a kind of token, the only part of a model that knows what it looks at."""

from __future__ import annotations

from toolkit.model.tokenizers.base import GridTokenizer, Tokenizer
from toolkit.model.tokenizers.points import PointGroups
from toolkit.model.tokenizers.signal import SignalPatches
from toolkit.model.tokenizers.spectrogram import SpectrogramPatches
from toolkit.model.tokenizers.volume import VolumePatches
from toolkit.model.tokenizers.voxels import VoxelGrid
from toolkit.recipe import PointTokens, Recipe, SignalData, SignalTokens, SpectrogramTokens, VolumeData, VoxelTokens

__all__ = [
    "GridTokenizer",
    "PointGroups",
    "SignalPatches",
    "SpectrogramPatches",
    "Tokenizer",
    "VolumePatches",
    "VoxelGrid",
    "build",
]


def build(recipe: Recipe) -> Tokenizer:
    """The tokenizer that a recipe's tokenizer table asks for."""
    data, table = recipe.data, recipe.tokenizer
    if isinstance(table, PointTokens):
        return PointGroups(table)
    if isinstance(table, VoxelTokens):
        return VoxelGrid(table)
    if isinstance(data, VolumeData):
        assert table.kind == "volume"
        return VolumePatches(table, data.spacing_mm)
    assert isinstance(data, SignalData)
    if isinstance(table, SpectrogramTokens):
        return SpectrogramPatches(table, data.rate_hz)
    assert isinstance(table, SignalTokens)
    return SignalPatches(table, data)
