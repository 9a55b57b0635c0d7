"""Other programs' forms of an encoder, each checked by running it there.

A writer takes the model and an empty folder, fills it, and returns what it holds and the largest difference from our states.
It raises UsageError where the program is missing, or has no such architecture.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from toolkit.export.onnx import onnx_form
from toolkit.export.vision import hf_form, timm_form
from toolkit.model.folder import LoadedModel

FORMS: dict[str, Callable[[LoadedModel, Path], tuple[str, float]]] = {"timm": timm_form, "hf": hf_form, "onnx": onnx_form}
