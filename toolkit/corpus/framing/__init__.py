"""How recordings of each kind of axes are cut into windows for a model: signals, volumes, points."""

from __future__ import annotations

from toolkit.corpus.framing.base import Framing, Piece
from toolkit.corpus.framing.points import PointFraming
from toolkit.corpus.framing.signals import SignalFraming
from toolkit.corpus.framing.volumes import VolumeFraming
from toolkit.recipe import PointData, Recipe, SignalData, SpectrogramTokens

__all__ = ["Framing", "Piece", "build"]


def build(recipe: Recipe) -> Framing:
    """The framing that a recipe's data table asks for."""
    if isinstance(recipe.data, SignalData):
        # Spectrogram frames are filled up to whole patches; plain patches need windows that they fill.
        if isinstance(recipe.tokenizer, SpectrogramTokens):
            return SignalFraming(recipe.data, 1, recipe.tokenizer.frame(recipe.data.rate_hz))
        assert recipe.tokenizer.kind == "signal"
        return SignalFraming(recipe.data, recipe.tokenizer.patch, recipe.tokenizer.patch)
    if isinstance(recipe.data, PointData):
        return PointFraming(recipe.data)
    assert recipe.tokenizer.kind == "volume"
    return VolumeFraming(recipe.data, recipe.tokenizer.patch)
