"""How recordings of each kind of axes are cut into windows for a model: signals, volumes, points."""

from __future__ import annotations

from toolkit.corpus.framing.base import Framing, Piece
from toolkit.corpus.framing.points import PointFraming
from toolkit.corpus.framing.signals import SignalFraming
from toolkit.corpus.framing.volumes import VolumeFraming
from toolkit.recipe import PointData, Recipe, SignalData, SpectrogramTokens

__all__ = ["Framing", "Piece", "SignalFraming", "build", "placed_only"]


def placed_only(recipe: Recipe) -> bool:
    """Whether the model tells channels apart by their places alone, so that it cannot take one without."""
    return getattr(recipe.encoder, "channels", "code") == "none"


def build(recipe: Recipe) -> Framing:
    """The framing that a recipe's data table asks for."""
    if isinstance(recipe.data, SignalData):
        # Spectrogram frames are filled up to whole patches; plain patches need windows that they fill.
        if isinstance(recipe.tokenizer, SpectrogramTokens):
            return SignalFraming(recipe.data, 1, recipe.tokenizer.frame(recipe.data.rate_hz))
        assert recipe.tokenizer.kind == "signal"
        table, placed = recipe.tokenizer, placed_only(recipe)
        return SignalFraming(recipe.data, table.step, table.patch, overlap=table.patch - table.step, placed=placed)
    if isinstance(recipe.data, PointData):
        return PointFraming(recipe.data)
    assert recipe.tokenizer.kind == "volume"
    return VolumeFraming(recipe.data, recipe.tokenizer.patch)
