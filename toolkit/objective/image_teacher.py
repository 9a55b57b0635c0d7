"""A teacher of pictures for point clouds: an image model from a local file, shown views of the cloud (I2P-MAE, 2212.06785)."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from toolkit import files
from toolkit.errors import UsageError, did_you_mean
from toolkit.model.folder import misfits
from toolkit.model.tokens import TokenSet
from toolkit.model.views2d import Views, back_project, project

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # what timm's folders hold
CONFIG = "config.json"
HOW = (
    'a timm image model: FILE.safetensors, or a FILE.pth of tensors, with {"architecture": "NAME OF THE TIMM MODEL"} in '
    f"FILE.json or {CONFIG} beside it, or a folder of the two as the authors publish it"
)


@dataclass(frozen=True)
class Guidance:
    """What a teacher of pictures says of tokens: ``features`` (B, N, C) and ``salience`` (B, N), 0 or more."""

    features: Tensor
    salience: Tensor

    def repeated(self, times: int) -> Guidance:
        """Each sample's so many times in a row."""
        if times == 1:
            return self
        return Guidance(self.features.repeat_interleave(times, dim=0), self.salience.repeat_interleave(times, dim=0))


class ImageEncoder(nn.Module):
    """A timm model that gives a map of features and one of salience; ``width`` features, pictures of ``side`` pixels.

    Salience is, as in the paper, the attention that the class token pays in the last block, mean over its heads; where
    there is no class token, as in a convnet, the greatest feature.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, side: int, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        super().__init__()
        self.network, self.side = network, side
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1), persistent=False)
        self.width = int(self(torch.zeros(1, 3, side, side))[0].shape[1])

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (M, 3, S, S) of values from 0 to 1 -> features (M, C, h, w), salience (M, h, w)."""
        attention = self._last_attention()
        entered: list[Tensor] = []
        hook = attention.register_forward_pre_hook(lambda _, given: entered.append(given[0])) if attention is not None else None
        try:
            pictures = (pictures - self.mean) / self.deviation
            network: Any = self.network
            maps = network.forward_intermediates(pictures, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True)[-1]
        finally:
            if hook is not None:
                hook.remove()
        if attention is None:
            return maps, maps.amax(1).clamp(min=0)
        paid = class_attention(attention, entered[0])[:, int(network.num_prefix_tokens) :]
        return maps, paid.unflatten(1, maps.shape[2:])

    def _last_attention(self) -> nn.Module | None:
        """The last block's attention, in a vision transformer with a class token."""
        if not getattr(self.network, "has_class_token", False) or not hasattr(self.network, "blocks"):
            return None
        attention = getattr(self.network.blocks[-1], "attn", None)  # type: ignore[index]
        return attention if all(hasattr(attention, key) for key in ("qkv", "q_norm", "k_norm", "num_heads")) else None


def class_attention(attention: Any, x: Tensor) -> Tensor:
    """What the first token of (M, n, W) pays to each in a timm attention, mean over its heads: (M, n)."""
    query, key, _ = attention.qkv(x).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, key = attention.q_norm(query[:, :, :1]), attention.k_norm(key)
    return (query @ key.mT * attention.scale).softmax(-1).mean(1)[:, 0]


class ImageTeacher(nn.Module):
    """Shows an image model three views of each cloud and brings what it says back to the tokens; never trains.

    ``encoder``: pictures (M, 3, S, S) to features (M, C, h, w) and salience (M, h, w), of ``width`` features, for
    pictures of ``side`` pixels.
    """

    def __init__(self, encoder: nn.Module, width: int, side: int, hash_: str = "") -> None:
        super().__init__()
        self.encoder, self.width, self.side, self.hash = encoder.requires_grad_(False).eval(), width, side, hash_

    def train(self, mode: bool = True) -> ImageTeacher:
        """A teacher never trains."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, tokens: TokenSet, points: Tensor) -> Guidance:
        """What is said of the tokens, by their centres, of clouds of all their points (B, N * neighbours, 3)."""
        each = points.shape[1] // tokens.valid.shape[1]
        views = project(points, tokens.valid.repeat_interleave(each, dim=1), self.side)
        features, salience = self.look(views)
        both = torch.cat([features.float(), salience.float()[:, :, None]], dim=2)
        found = back_project(views, both, tokens.coords[..., :3])
        return Guidance(found[..., :-1], found[..., -1])

    def look(self, views: Views) -> tuple[Tensor, Tensor]:
        """Features (B, 3, C, h, w) and salience (B, 3, h, w) of the views."""
        grey = views.images.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)
        features, salience = self.encoder(grey)
        return features.unflatten(0, (-1, 3)), salience.unflatten(0, (-1, 3))


def load(path: Path) -> ImageTeacher:
    """The teacher in a local file: timm weights beside a small configuration that names the model; see ``HOW``.

    Files hold tensors only: safetensors, or what torch reads with ``weights_only``. Raises UsageError where the file, its
    configuration or timm is missing, or they do not fit.
    """
    weights, config = _files(path)
    about = _config(config)
    network = _network(about, config)
    tensors = _tensors(weights)
    _fill(network, tensors, weights)
    given: Mapping[str, Any] = {**getattr(network, "default_cfg", {}), **about.get("pretrained_cfg", {})}
    side = about.get("model_args", {}).get("img_size") or given.get("input_size", (3, 224, 224))[-1]
    mean, deviation = (tuple(given.get(key, (0.5, 0.5, 0.5))) for key in ("mean", "std"))
    try:
        encoder = ImageEncoder(network.eval(), int(side), mean, deviation)
    except (AttributeError, TypeError, ValueError, RuntimeError, AssertionError) as problem:
        raise UsageError(
            f"teacher.path: '{about['architecture']}' gives no map of features for a picture of {side} pixels: {problem}. "
            "A vision transformer or a convnet of timm does."
        ) from None
    return ImageTeacher(encoder, encoder.width, int(side), files.sha256(weights))


def _files(path: Path) -> tuple[Path, Path]:
    if not path.exists():
        raise UsageError(f"teacher.path: '{path}' does not exist. It is {HOW}.")
    weights: Path | None = path
    if path.is_dir():
        weights = next((path / name for name in WEIGHTS if (path / name).exists()), None)
        if weights is None:
            raise UsageError(f"teacher.path: folder '{path}' holds neither {' nor '.join(WEIGHTS)}. A teacher is {HOW}.")
    assert weights is not None
    config = next((c for c in (weights.with_suffix(".json"), weights.parent / CONFIG) if c.exists()), None)
    if config is None:
        raise UsageError(
            f"teacher.path: nothing beside '{weights}' says which model it is. Write {weights.with_suffix('.json').name} with "
            '{"architecture": "vit_base_patch16_224"} in it, the name as timm has it.'
        )
    return weights, config


def _config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise UsageError(f"teacher.path: '{path}' cannot be read as JSON: {problem}.") from None
    if not isinstance(found, dict) or not isinstance(found.get("architecture"), str):
        raise UsageError(f"teacher.path: '{path}' names no architecture. It is {HOW}.")
    for key in ("model_args", "pretrained_cfg"):
        if not isinstance(found.setdefault(key, {}), dict):
            raise UsageError(f"teacher.path: {key} in '{path}' is {found[key]!r}, expected a table.")
    return found


def _network(about: Mapping[str, Any], config: Path) -> nn.Module:
    timm, name = _timm(), about["architecture"]
    if not timm.is_model(name):
        raise UsageError(
            f"teacher.path: '{config}' names '{name}', which timm does not have. {did_you_mean(name, timm.list_models())}"
        )
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **about["model_args"])
    except (TypeError, ValueError, AssertionError, RuntimeError) as problem:
        raise UsageError(f"teacher.path: timm cannot make '{name}' with model_args {about['model_args']}: {problem}.") from None


def _timm() -> ModuleType:
    try:
        import timm
    except ModuleNotFoundError:
        raise UsageError(
            "teacher.path: an image model is made by timm, which is not installed: pip install 'masked-recordings[timm]'"
        ) from None
    except (ImportError, RuntimeError) as problem:
        raise UsageError(
            f"teacher.path: timm, which makes image models, cannot be imported: {problem}. Install torch and torchvision of one "
            "release."
        ) from None
    return timm


def _tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a file by name; from a checkpoint, of its ``state_dict`` or ``model``."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, pickle.UnpicklingError, RuntimeError, EOFError) as problem:
        first = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        raise UsageError(
            f"teacher.path: '{path}' does not hold tensors only: {first} Whole pickled models and TorchScript can run code "
            "and are refused; save the model's state_dict, best as safetensors."
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UsageError(f"teacher.path: '{path}' holds no state dict, a table of tensors by name.")
    return found


def _fill(network: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Load all weights but a classifier's. Raises UsageError that names what does not fit."""
    wanted = network.state_dict()
    named: Any = getattr(network, "default_cfg", {}).get("classifier") or ()
    heads = tuple(f"{name}." for name in ((named,) if isinstance(named, str) else named))
    given = {key: value for key, value in tensors.items() if key in wanted or not key.startswith(heads or ("\0",))}
    if wrong := misfits(network, given):
        raise UsageError(f"teacher.path: the weights in '{where}' are not of that model: {wrong}.")
    network.load_state_dict(dict(given))
