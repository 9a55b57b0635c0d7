"""Which mender a model restores with."""

from __future__ import annotations

import torch

from toolkit.model.folder import LoadedModel
from toolkit.restoration.mender import Mender
from toolkit.restoration.repair import Repairer
from toolkit.restoration.signals import SignalMender


def build(loaded: LoadedModel, device: torch.device) -> Mender:
    """The mender of the model's kind of tokens."""
    return SignalMender(Repairer(loaded, device))
