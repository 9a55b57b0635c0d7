"""config.json: what rebuilds an encoder and its preprocessing without this package."""

from __future__ import annotations

from typing import Any

from toolkit import __version__
from toolkit import recipe as recipes
from toolkit.model import tokenizers
from toolkit.model.folder import LoadedModel
from toolkit.model.tokenizers.descriptors import DESCRIPTOR
from toolkit.recipe import PointData, Recipe, SignalData, SignalTokens, SpectrogramTokens, TransformerTable, VolumeData

FORMAT = "masked-recordings-encoder"


def document(loaded: LoadedModel) -> dict[str, Any]:
    """Tables of the recipe, shapes of the tensors, and in words what goes in and comes out."""
    recipe = loaded.recipe
    plain = recipe.model_dump(mode="json")
    return {
        "format": FORMAT,
        "format_version": 1,
        "toolkit": __version__,
        "recipe": recipe.name,
        "recipe_hash": recipes.fingerprint(recipe),
        "model_hash": loaded.hash,
        "domains": plain["domains"],
        "paper": recipe.paper,
        "encoder": plain["encoder"],
        "position": plain["position"],
        "embedding": plain["embedding"],
        "data": plain["data"],
        "tokenizer": plain["tokenizer"],
        "decoder": plain["decoder"],
        "terms": plain["terms"],
        "passes": plain["passes"],
        "restores": loaded.model.completes is not None and not loaded.untrained,
        "channels": list(loaded.channels),
        "inputs": _inputs(recipe),
        "outputs": _outputs(recipe),
        "preprocessing": preprocessing(recipe),
        "tensors": {key: list(value.shape) for key, value in loaded.model.state_dict().items()},
    }


def _inputs(recipe: Recipe) -> dict[str, str]:
    size, convnet = tokenizers.build(recipe).values, recipe.encoder.kind == "convnet"
    grid = {"grid": "int64 (1 + axes,): channels, then patches along each axis, N in all"} if convnet else {}
    return {
        "patches": f"float32 (B, N, {size}): the values of each token, zeros where it is not valid",
        "coords": f"float32 (B, N, 4): x, y, z, t of the middle of each token, {places(recipe)}",
        "channel": f"int64 (B, N): place of the token's channel in tokenizer.channels ({len(recipe.tokenizer.channels)} names; "
        "that number and above: channels that are not named)",
        "descriptor": f"float32 (B, N, {DESCRIPTOR}): unit code of the channel's name, kind and repeat",
        "valid": "bool (B, N): tokens that are attended and pooled",
        **grid,
    }


def _outputs(recipe: Recipe) -> dict[str, str]:
    table, width = recipe.embedding, recipe.encoder.width
    return {
        "states": f"float32 (B, N, {width}): layer {table.layer} from the end, mean of {table.layers} (embedding.layer, .layers)",
        "extra": "float32 (B, g, width): class token, then registers, where encoder has them",
        "pooled": f"float32 (B, D): '{table.pool}' over valid tokens (embedding.pool)"
        + (", of the last block's states before the final norm, then pool_norm" if table.after_norm else ""),
    }


def places(recipe: Recipe) -> str:
    """Units of the coordinates."""
    if isinstance(recipe.tokenizer, SpectrogramTokens):
        return "x from 0 to 1 on the mel scale, t in seconds from the window's start"
    if isinstance(recipe.data, VolumeData):
        return "mm from the middle of the sample"
    if isinstance(recipe.data, PointData):
        return "in units of the sphere around the cloud's points"
    return "metres in the head's frame (0 for channels without a place), t in seconds from the window's start"


def preprocessing(recipe: Recipe) -> list[str]:
    """From a file to tokens, one sentence a step, with units."""
    data, tokens = recipe.data, recipe.tokenizer
    if isinstance(data, SignalData):
        steps = [f"Resampled to {data.rate_hz:g} Hz; windows of {data.window_s:g} s."]
        steps += ["The mean of all channels is one channel."] if data.downmix else []
        steps.append(
            {
                "kind": "Each channel less its mean over the window, over the deviation of all channels of its kind there.",
                "channel": "Each channel less its mean over the window, over its own deviation there.",
                "session": "Each channel less its mean and over its deviation in the whole recording, limited to 15 deviations.",
                "none": "Values as in the file, full scale 1.",
            }[data.scaling]
        )
        return [*steps, _tokens_of_signals(tokens, data.rate_hz)]
    if isinstance(data, VolumeData):
        which = "voxels above the contrast's mean" if data.scaling == "bright" else "voxels that are not zero"
        return [
            f"Canonical orientation, resampled to {data.spacing_mm:g} mm; cubes of {data.window_mm:g} mm a side.",
            f"Each contrast less the mean and over the deviation of its {which}.",
            f"Cubes of {getattr(tokens, 'patch', 0)} voxels a side, contrast after contrast, x, y, z.",
        ]
    steps = [f"Clouds of {data.points} points, centred and scaled into the unit sphere."]
    if tokens.kind == "points":
        return [
            *steps,
            f"{tokens.centres} farthest-point centres, each with its {tokens.neighbours} nearest points less the centre.",
        ]
    return [*steps, "Counts of points in voxels, log(1 + n) / log 2, in cubes."]


def _tokens_of_signals(tokens: Any, rate_hz: float) -> str:
    if isinstance(tokens, SignalTokens):
        return f"Patches of {tokens.patch} samples, one every {tokens.step}, channel after channel."
    return (
        f"Kaldi filterbank: {tokens.mels} mel bands from {tokens.lowest_hz:g} Hz to {rate_hz / 2:g} Hz, frames of "
        f"{tokens.window_ms:g} ms every {tokens.hop_ms:g} ms, natural logarithm; (x - ({tokens.mean:g})) / {tokens.deviation:g}; "
        f"patches of {tokens.patch} bands by {tokens.patch} frames, mel first, then time, and so are the values of each."
    )


def architecture(recipe: Recipe) -> str:
    """The encoder in a few words."""
    table = recipe.encoder
    if isinstance(table, TransformerTable):
        return (
            f"transformer, {table.depth} blocks of width {table.width}, {table.heads} heads, positions '{recipe.position.code}'"
        )
    return f"{table.kind}, width {table.width}"
