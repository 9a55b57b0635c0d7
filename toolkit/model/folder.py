"""MODEL folders: ``model.safetensors`` and ``recipe.toml`` (and what a run leaves beside them)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from toolkit import files
from toolkit import recipe as recipes
from toolkit.errors import UsageError
from toolkit.model.masked import MaskedModel, build
from toolkit.recipe import Recipe

WEIGHTS, RECIPE, RUN = "model.safetensors", "recipe.toml", "run.json"
UNTRAINED = "decoder_untrained"  # key of the weights' metadata


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with the recipe it replays, its hash and the channels it was trained on.

    ``untrained``: why its decoder cannot restore, where the weights say so.
    """

    model: MaskedModel
    recipe: Recipe
    hash: str
    path: Path
    channels: tuple[str, ...]
    untrained: str = ""


def save_weights(model: torch.nn.Module, path: Path) -> None:
    """Write the weights atomically as safetensors."""
    save_tensors(path, dict(model.state_dict()))


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors atomically as safetensors. Raises ToolkitError when the disk is full."""
    with files.atomic(path) as temporary:
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata=metadata)
        except SafetensorError as problem:  # how this library reports what the system refused
            raise OSError(str(problem)) from None


def load(path: Path) -> LoadedModel:
    """Load a MODEL: a run folder, or its ``.safetensors``. Raises UsageError that says what is wrong."""
    weights = path if path.is_file() else path / WEIGHTS
    if path.is_file():
        _refuse_pickle(path)
    recipe = read_recipe(weights.parent, path)
    model = build(recipe)
    fill(model, read_weights(weights, path), weights)
    channels = _trained_channels(weights.parent)
    return LoadedModel(model.eval(), recipe, files.sha256(weights), weights.parent, channels, read_mark(weights))


def untrained_mark(reason: str) -> dict[str, str] | None:
    """What weights are saved with whose decoder was never trained; it travels with the file."""
    return {UNTRAINED: reason} if reason else None


def read_mark(weights: Path) -> str:
    """Why the decoder in these weights cannot restore; nothing where it can."""
    with safe_open(weights, framework="pt") as content:
        return (content.metadata() or {}).get(UNTRAINED, "")


def read_recipe(folder: Path, asked: Path) -> Recipe:
    """The recipe in a MODEL folder. Raises UsageError."""
    if not asked.exists():
        raise UsageError(f"Model '{asked}' does not exist.")
    if not (folder / RECIPE).exists():
        raise UsageError(
            f"Model '{asked}' has no {RECIPE}, which says how to read data for it. A model is the folder "
            f"that `toolkit pretrain` printed, with {WEIGHTS} and {RECIPE} in it."
        )
    return recipes.resolve(str(folder / RECIPE))


def read_weights(weights: Path, asked: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises UsageError; anything else, pickles above all, is never opened."""
    if not weights.exists():
        unfinished = " The run there has not finished; continue it with --resume." if (asked / "checkpoints").exists() else ""
        raise UsageError(f"Model '{asked}' has no {WEIGHTS}.{unfinished}")
    _refuse_pickle(weights)
    try:
        return load_file(weights)
    except (SafetensorError, OSError) as problem:
        raise UsageError(
            f"'{weights}' is not a readable safetensors file: {problem}. A pickle under this name is refused too."
        ) from None


def _refuse_pickle(weights: Path) -> None:
    if weights.suffix != ".safetensors":
        raise UsageError(
            f"'{weights}' is not a .safetensors file. Pickled checkpoints (.pt, .pth, .ckpt, .bin) can run "
            "code when opened and are refused; convert the weights to safetensors first."
        )


def fill(model: torch.nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Load tensors into a model, strictly. Raises UsageError that names the first tensors that do not fit."""
    if wrong := misfits(model, tensors):
        raise UsageError(
            f"The weights in '{where}' do not fit its recipe: {wrong}. Weights and recipe.toml must come from one run."
        )
    model.load_state_dict(tensors)


def misfits(model: torch.nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """The first three tensors that are missing, not a model's, or of another shape, in words, and how many more; '' for none."""
    wanted = model.state_dict()
    wrong = [f"{k} is missing" for k in wanted if k not in tensors] + [
        f"{k} is not part of it" for k in tensors if k not in wanted
    ]
    wrong += [
        f"{k} has shape {tuple(tensors[k].shape)}, expected {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    return "; ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")


def start_from(model: MaskedModel, tensors: dict[str, Tensor], where: Path) -> list[str]:
    """Take over weights of another model: its encoder whole, and of the rest what fits; returns what keeps its fresh weights.

    Raises UsageError where the encoders differ.
    """
    prefix = "encoder."
    fill(model.encoder, {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}, where)
    own = model.state_dict()
    rest = {k: v for k, v in tensors.items() if not k.startswith(prefix) and k in own and own[k].shape == v.shape}
    model.load_state_dict(rest, strict=False)
    return sorted({k.rpartition(".")[0] or k for k in own if not k.startswith(prefix) and k not in rest})


def _trained_channels(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(json.loads((folder / RUN).read_text(encoding="utf-8"))["channels"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()
