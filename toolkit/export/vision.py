"""Encoders that are plain vision transformers of spectrograms as models of timm and of transformers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from toolkit import files
from toolkit.errors import UsageError
from toolkit.export import example
from toolkit.export.check import checked, furthest, imported
from toolkit.model import folder
from toolkit.model.folder import LoadedModel
from toolkit.model.masked import MaskedModel
from toolkit.model.tokens import TokenSet
from toolkit.recipe import Recipe, SpectrogramTokens, TransformerTable

TIMM = {"attention.out": "attn.proj", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2", "norm1": "norm1", "norm2": "norm2"}
TRANSFORMERS = {
    "attention.query": "attention.q_proj",
    "attention.out": "attention.o_proj",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}
KINDS = ("weight", "bias")


def picture_transformer(recipe: Recipe, form: str) -> tuple[TransformerTable, SpectrogramTokens]:
    """The tables of an encoder that is a plain vision transformer. Raises UsageError that says what it has that such have not."""
    table, tokens, place = recipe.encoder, recipe.tokenizer, recipe.position
    if not isinstance(table, TransformerTable) or not isinstance(tokens, SpectrogramTokens):
        raise UsageError(
            f"--as {form} is for vision transformers of spectrograms; this model is a {recipe.encoder.kind} of {tokens.kind} "
            "tokens. Export it without --as, or with --as onnx."
        )
    expected = {
        "position.code": (place.code, "grid"),
        "position.rotary": (place.rotary, ()),
        "position.every_block": (place.every_block, False),
        "encoder.class_token": (table.class_token, True),
        "encoder.registers": (table.registers, 0),
        "encoder.channels": (table.channels, "none"),
        "encoder.norm": (table.norm, "layer"),
        "encoder.activation": (table.activation, "gelu"),
        "encoder.bias": (table.bias, "all"),
        "encoder.final_norm": (table.final_norm, True),
        "encoder.positions": (table.positions, True),
        "encoder.heads * head_width": (table.heads * table.head_width, table.width),
    }
    wrong = [f"{key} is {got!r}, there always {want!r}" for key, (got, want) in expected.items() if got != want]
    if wrong:
        raise UsageError(
            f"--as {form}: the encoder is not a plain vision transformer: {'; '.join(wrong)}. Export it without --as."
        )
    return table, tokens


def picture_size(recipe: Recipe, tokens: SpectrogramTokens) -> tuple[int, int]:
    """Bands and frames of the picture that the table of positions covers."""
    return tokens.mels, tokens.patch * recipe.position.cells[3]


def tokens_of(recipe: Recipe, tokens: SpectrogramTokens, mel: Tensor) -> TokenSet:
    """Pictures (B, mels, frames) of log-mel values as the tokens that our encoder takes."""
    rows, steps = mel.shape[1] // tokens.patch, mel.shape[2] // tokens.patch
    given = example.tokens(recipe, len(mel), rows * steps, whole=True)
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(1), torch.arange(1), torch.arange(steps))
    count, place = torch.tensor(recipe.position.cells), recipe.position
    coords = torch.tensor(place.middle) + (cells + 0.5 - count / 2) * torch.tensor(place.cell)
    patches = mel.unflatten(2, (steps, -1)).unflatten(1, (rows, -1)).transpose(2, 3).flatten(3).flatten(1, 2)
    return TokenSet(
        patches, coords.expand(len(mel), -1, -1), given.channel, given.descriptor, given.valid, given.scale, (1, rows, steps)
    )


def entry(model: MaskedModel, tokens: SpectrogramTokens) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Class token, table of positions with 0 for the class, and the patches' convolution, as vision transformers keep them."""
    own = model.encoder.state_dict()
    table = torch.cat([torch.zeros_like(own["extra"]), own["embed_position.table"]])
    weight = own["embed_patch.weight"].unflatten(1, (1, tokens.patch, tokens.patch))
    return own["extra"][None], table[None], {"weight": weight, "bias": own["embed_patch.bias"]}


def difference(
    loaded: LoadedModel, tokens: SpectrogramTokens, size: tuple[int, int], theirs: Callable[[Tensor], Tensor]
) -> float:
    """Largest difference of their states (B, 1 + N, W) of pictures (B, 1, bands, frames) from ours, class token first."""
    mel = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours = loaded.model.cpu().eval().features(tokens_of(loaded.recipe, tokens, mel))
        states = theirs(mel[:, None])
    return max(furthest(states[:, 1:], ours.last), furthest(states[:, :1], ours.extra))


def timm_form(loaded: LoadedModel, out: Path) -> tuple[str, float]:
    """config.json and model.safetensors that timm.create_model('local-dir:...') loads."""
    table, tokens = picture_transformer(loaded.recipe, "timm")
    if table.eps != 1e-6:
        raise UsageError(f"--as timm: encoder.eps is {table.eps}, timm's vision transformers have 1e-6. Export it without --as.")
    timm = imported("timm", "timm")
    size = picture_size(loaded.recipe, tokens)
    arguments = {
        "img_size": list(size),
        "patch_size": tokens.patch,
        "in_chans": 1,
        "embed_dim": table.width,
        "depth": table.depth,
        "num_heads": table.heads,
        "mlp_ratio": table.mlp / table.width,
    }
    fixed = {"input_size": [1, *size], "num_classes": 0, "mean": [0.0], "std": [1.0], "fixed_input_size": True}
    document = {"architecture": "vit_base_patch16_224", "num_classes": 0, "global_pool": "avg", "pretrained_cfg": fixed}
    files.write_json(out / "config.json", {**document, "model_args": arguments | {"fc_norm": False, "global_pool": "avg"}})
    folder.save_tensors(out / "model.safetensors", timm_state(loaded.model, tokens))
    theirs = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    worst = difference(loaded, tokens, size, theirs.forward_features)
    return (
        f"for timm.create_model('local-dir:PATH', pretrained=True): pictures (B, 1, {size[0]} bands, {size[1]} frames) of the "
        f"values above, which ends in the mean of the patches' last states. Largest difference from ours {worst:.1e}.",
        checked(worst, "timm"),
    )


def timm_state(model: MaskedModel, tokens: SpectrogramTokens) -> dict[str, Tensor]:
    """Our encoder under timm's names."""
    token, table, convolution = entry(model, tokens)
    own = model.encoder.state_dict()
    state = {"cls_token": token, "pos_embed": table}
    for kind in KINDS:
        state |= {f"patch_embed.proj.{kind}": convolution[kind], f"norm.{kind}": own[f"norm.{kind}"]}
        for number in range(model.recipe.encoder.layers - 1):
            block = f"blocks.{number}"
            both = [own[f"{block}.attention.{part}.{kind}"] for part in ("query", "key_value")]
            state[f"{block}.attn.qkv.{kind}"] = torch.cat(both)
            state |= {f"{block}.{theirs}.{kind}": own[f"{block}.{ours}.{kind}"] for ours, theirs in TIMM.items()}
    return state


def hf_form(loaded: LoadedModel, out: Path) -> tuple[str, float]:
    """A folder that transformers.ViTModel.from_pretrained loads."""
    table, tokens = picture_transformer(loaded.recipe, "hf")
    transformers = imported("transformers", "hf")
    transformers.utils.logging.disable_progress_bar()
    size = picture_size(loaded.recipe, tokens)
    settings = transformers.ViTConfig(
        image_size=size,
        patch_size=tokens.patch,
        num_channels=1,
        hidden_size=table.width,
        num_hidden_layers=table.depth,
        num_attention_heads=table.heads,
        intermediate_size=table.mlp,
        layer_norm_eps=table.eps,
        hidden_act="gelu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        qkv_bias=True,
    )
    theirs = transformers.ViTModel(settings, add_pooling_layer=False)
    try:
        theirs.load_state_dict(transformers_state(loaded.model, tokens))
    except RuntimeError as problem:
        raise UsageError(
            f"--as hf: transformers {transformers.__version__} names the tensors of its ViTModel otherwise than 5.0 does "
            f"({str(problem).splitlines()[-1].strip()[:200]}). Install another version, or export with --as timm."
        ) from None
    theirs.save_pretrained(out)
    for path in out.iterdir():  # weights are written as files for the user alone
        shutil.copymode(out / "config.json", path)
    again = transformers.ViTModel.from_pretrained(out, add_pooling_layer=False).eval()
    worst = difference(loaded, tokens, size, lambda pictures: again(pixel_values=pictures).last_hidden_state)
    return (
        f"for transformers.ViTModel.from_pretrained(PATH, add_pooling_layer=False): pixel_values (B, 1, {size[0]} bands, "
        f"{size[1]} frames) of the values above. Largest difference from ours {worst:.1e}.",
        checked(worst, "hf"),
    )


def transformers_state(model: MaskedModel, tokens: SpectrogramTokens) -> dict[str, Tensor]:
    """Our encoder under the names of transformers' ViTModel."""
    token, table, convolution = entry(model, tokens)
    own = model.encoder.state_dict()
    state = {"embeddings.cls_token": token, "embeddings.position_embeddings": table}
    for kind in KINDS:
        state |= {f"embeddings.patch_embeddings.projection.{kind}": convolution[kind], f"layernorm.{kind}": own[f"norm.{kind}"]}
        for number in range(model.recipe.encoder.layers - 1):
            block, layer = f"blocks.{number}", f"layers.{number}"
            key, value = own[f"{block}.attention.key_value.{kind}"].chunk(2)
            state |= {f"{layer}.attention.k_proj.{kind}": key, f"{layer}.attention.v_proj.{kind}": value}
            state |= {f"{layer}.{theirs}.{kind}": own[f"{block}.{ours}.{kind}"] for ours, theirs in TRANSFORMERS.items()}
    return state
