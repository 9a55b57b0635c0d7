"""Which mender a model restores with."""

from __future__ import annotations

import torch

from toolkit.model.folder import LoadedModel
from toolkit.restoration.audio import AudioRepairer
from toolkit.restoration.cubes import CubePredictor
from toolkit.restoration.mender import Mender
from toolkit.restoration.points import GroupPredictor, PointMender
from toolkit.restoration.repair import Repairer
from toolkit.restoration.signals import SignalMender
from toolkit.restoration.sound import AudioMender
from toolkit.restoration.volumes import VolumeMender

# Where it is not that of a window; see the recipe's data.scaling.
SCALES = {"session": "visible mean and deviation of each channel in the recording, those of the others for a channel all hidden"}


def build(loaded: LoadedModel, device: torch.device) -> Mender:
    """The mender of the model's kind of tokens."""
    if loaded.recipe.tokenizer.kind == "spectrogram":
        hears = AudioRepairer(loaded, device)
        return AudioMender(hears, hears.rate / 2)
    if loaded.recipe.tokenizer.kind == "volume":
        return VolumeMender(CubePredictor(loaded, device))
    if loaded.recipe.tokenizer.kind == "points":
        return PointMender(GroupPredictor(loaded, device))
    repairer = Repairer(loaded, device)
    return SignalMender(repairer, SCALES.get(repairer.data.scaling))
