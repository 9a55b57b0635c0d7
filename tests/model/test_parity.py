"""The same numbers as timm and MONAI from the same weights: float32, largest difference 1e-5."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad, unfold

from readers.schema import Channel
from tests import peers
from toolkit.corpus.batches import Batch
from toolkit.model.attention_pool import AttentionPool
from toolkit.model.encoder import Encoder
from toolkit.model.predictors import Joint, Memory, Part
from toolkit.model.tokenizers.descriptors import DESCRIPTOR
from toolkit.model.tokenizers.volume import VolumePatches
from toolkit.model.tokens import TokenSet, gather
from toolkit.model.transformer import SelfBlock
from toolkit.recipe import PositionTable, TransformerTable, VolumeTokens

# Ours to theirs, layer by layer; their query, key and value are one layer.
TIMM = {"norm1": "norm1", "norm2": "norm2", "attention.out": "attn.proj"}
TIMM_MLP = {"mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
TIMM_GATED = {"mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}
MONAI = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.out": "attn.out_proj",
    "mlp.0": "mlp.linear1",
    "mlp.2": "mlp.linear2",
}
MONAI_UNREAD = ("norm_cross_attn",)  # a layer that only its cross-attention reads
POSITION = PositionTable(bands=4, longest=(8.0,) * 4, shortest=(2.0,) * 4)


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights that keep values near one, biases and norms that hide no mistake; every norm adds 1e-6, as ours."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.add_(0.3 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = 1e-6
    return module.eval()


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some(size: int, count: int, of: int, seed: int = 2) -> Tensor:
    """int64 (size, count): different numbers below ``of`` for each sample, in no order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(of, generator=generator)[:count] for _ in range(size)])


def same(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert 0.3 < theirs.std() < 30  # neither nothing nor so large that rounding alone differs by more
    assert (ours - theirs).abs().max() <= 1e-5


def copied(theirs: nn.Module, table: TransformerTable, layers: dict[str, str], unread: tuple[str, ...] = ()) -> SelfBlock:
    """Our block with their weights: every tensor of theirs but the ``unread`` is taken once, and all of ours are set."""
    left = {name: tensor for name, tensor in theirs.state_dict().items() if not name.startswith(unread)}
    weight, bias = left.pop("attn.qkv.weight"), left.pop("attn.qkv.bias", None)
    inner = table.heads * table.head_width
    state = {"attention.query.weight": weight[:inner], "attention.key_value.weight": weight[inner:]}
    bias = torch.zeros(3 * inner) if bias is None else bias
    state |= {"attention.query.bias": bias[:inner], "attention.key_value.bias": bias[inner:]}
    for our, their in layers.items():
        for kind in ("weight", "bias"):
            if f"{their}.{kind}" in left:
                state[f"{our}.{kind}"] = left.pop(f"{their}.{kind}")
    assert not left
    block = SelfBlock(table)
    block.load_state_dict(state)
    return block.eval()


def table_of(width: int, heads: int, hidden: int, depth: int = 1, **more: Any) -> TransformerTable:
    return TransformerTable(width=width, depth=depth, heads=heads, head_width=width // heads, mlp=hidden, **more)


@torch.inference_mode()
@pytest.mark.parametrize(("size", "count", "width", "heads"), [(2, 17, 32, 4), (3, 50, 96, 3), (1, 9, 64, 1)])
def test_a_block_is_timm_s_with_all_keys_and_with_some(size, count, width, heads):
    timm = peers.timm()
    theirs = shaken(timm.models.vision_transformer.Block(width, heads, mlp_ratio=3, qkv_bias=True))
    ours, x = copied(theirs, table_of(width, heads, 3 * width), TIMM | TIMM_MLP), random(size, count, width)
    same(ours(x, None, None), theirs(x))
    keys = some(size, count // 3, count)
    seen = torch.zeros(size, count, dtype=torch.bool).scatter(1, keys, True)
    same(ours(x, None, None, keys), theirs(x, attn_mask=seen[:, None, None, :]))


@torch.inference_mode()
@pytest.mark.parametrize(("activation", "function"), [("geglu", nn.GELU), ("swiglu", nn.SiLU)])
@pytest.mark.parametrize(("size", "count", "width", "heads"), [(2, 17, 32, 4), (3, 50, 96, 3)])
def test_a_block_with_rms_norm_and_a_gate_is_timm_s(activation, function, size, count, width, heads):
    timm = peers.timm()
    options = {"act_layer": function, "mlp_layer": timm.layers.GluMlp, "norm_layer": timm.layers.RmsNorm}
    theirs = shaken(timm.models.vision_transformer.Block(width, heads, mlp_ratio=4, qkv_bias=True, **options))
    ours = copied(theirs, table_of(width, heads, 2 * width, norm="rms", activation=activation), TIMM | TIMM_GATED)
    x = random(size, count, width)
    same(ours(x, None, None), theirs(x))


@torch.inference_mode()
@pytest.mark.parametrize(("size", "count", "width", "heads"), [(2, 17, 32, 4), (3, 50, 96, 8), (1, 1, 64, 1)])
def test_attention_pooling_is_timm_s(size, count, width, heads):
    theirs = shaken(peers.timm().layers.AttentionPoolLatent(width, num_heads=heads))
    layers = {
        "attention.query": "q",
        "attention.key_value": "kv",
        "attention.out": "proj",
        "mlp.0": "mlp.fc1",
        "mlp.2": "mlp.fc2",
    }
    left = theirs.state_dict()
    state = {f"{our}.{kind}": left.pop(f"{their}.{kind}") for our, their in layers.items() for kind in ("weight", "bias")}
    ours, states = AttentionPool(width, heads), random(size, count, width)
    ours.load_state_dict(state | {"latent": left.pop("latent")})
    assert not left
    same(ours(states, torch.ones(size, count, dtype=torch.bool)), theirs(states))
    counts = torch.zeros(size, count, dtype=torch.bool).scatter(1, some(size, (count + 1) // 2, count), True)
    same(ours(states, counts), theirs(states, attn_mask=counts[:, None, None, :]))


@torch.inference_mode()
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("size", "count", "width", "heads"), [(2, 27, 48, 4), (3, 64, 96, 3)])
def test_a_block_is_monai_s(size, count, width, heads, bias):
    block = peers.monai().networks.blocks.transformerblock.TransformerBlock
    theirs = shaken(block(width, 3 * width, heads, qkv_bias=bias))
    x = random(size, count, width)
    same(copied(theirs, table_of(width, heads, 3 * width), MONAI, MONAI_UNREAD)(x, None, None), theirs(x))


def cut(volume: Tensor, patch: int) -> Tensor:
    """Our tokens (B, N, patch^3) of volumes (B, 1, X, Y, Z)."""
    contrast = Channel("T1w", "T1w", "T1w", None, None, None)
    batch = Batch(volume.numpy(), np.ones(volume.shape, bool), ((contrast,),) * len(volume))
    return VolumePatches(VolumeTokens(kind="volume", patch=patch), 1.0).tokenize(batch).patches


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["conv", "perceptron"])
@pytest.mark.parametrize(("sides", "patch"), [((8, 12, 16), 4), ((6, 9, 3), 3)])
def test_a_linear_layer_on_our_cubes_is_monai_s_patch_embedding(kind, sides, patch):
    block = peers.monai().networks.blocks.patchembedding.PatchEmbeddingBlock
    theirs = shaken(block(1, sides, patch, 40, 4, proj_type=kind, pos_embed_type="none"))
    layer = theirs.patch_embeddings if kind == "conv" else theirs.patch_embeddings[1]
    ours, volume = nn.Linear(patch**3, 40), random(2, 1, *sides)
    ours.load_state_dict({"weight": layer.weight.flatten(1), "bias": layer.bias})
    same(ours(cut(volume, patch)) + theirs.position_embeddings, theirs(volume))


@dataclass(frozen=True)
class Parts:
    """Layers of a masked autoencoder of theirs, and its blocks as ours."""

    patch: nn.Module
    class_token: Tensor
    blocks: list[SelfBlock]
    norm: nn.Module
    narrow: nn.Module
    mask_token: Tensor
    narrow_blocks: list[SelfBlock]
    narrow_norm: nn.Module


def filled(parts: Parts, encoder_table: TransformerTable, decoder_table: TransformerTable) -> tuple[Encoder, Joint]:
    """Our encoder and predictor with their weights; the code of positions, which they keep a table of, is ours."""
    layer = nn.Linear(parts.patch.weight[0].numel(), encoder_table.width)
    layer.load_state_dict({"weight": parts.patch.weight.flatten(1), "bias": parts.patch.bias})
    encoder = Encoder(encoder_table, POSITION, SimpleNamespace(embedder=lambda width: layer), 0).eval()
    joint = Joint(Part(decoder_table, POSITION, encoder_table.width, 0)).eval()
    joint.queries.position = joint.read.position  # theirs have one for what was seen and what is asked for
    pairs = [(encoder.norm, parts.norm), (joint.norm, parts.narrow_norm), (joint.read.project, parts.narrow)]
    pairs += [*zip(encoder.blocks, parts.blocks, strict=True), *zip(joint.blocks, parts.narrow_blocks, strict=True)]
    for mine, their in pairs:
        mine.load_state_dict(their.state_dict())
    encoder.extra.copy_(parts.class_token[0])
    joint.queries.mask_token.copy_(parts.mask_token[0, 0])
    return encoder, joint


def token_set(patches: Tensor, coords: Tensor) -> TokenSet:
    """Tokens of one channel with no code, for theirs has none."""
    size, count = patches.shape[:2]
    zeros, valid = torch.zeros(size, count, dtype=torch.long), torch.ones(size, count, dtype=torch.bool)
    return TokenSet(patches, coords, zeros, torch.zeros(size, count, DESCRIPTOR), valid, zeros, (1, count))


def places(*sides: int) -> Tensor:
    """Coordinates (N, 4) of the cells of a grid, one unit apart."""
    cells = torch.cartesian_prod(*(torch.arange(side) for side in sides)).float()
    return pad(cells, (0, 4 - len(sides)))


def placed(position: nn.Module, coords: Tensor) -> Tensor:
    """Our code of positions as the table that theirs add."""
    return position(coords[None])


def predicted(encoder: Encoder, joint: Joint, tokens: TokenSet, visible: Tensor, hidden: Tensor) -> Tensor:
    """States at ``hidden`` from tokens at ``visible``."""
    return joint(Memory(encoder(tokens, visible), tokens.take(visible)), tokens.take(hidden))


def timm_autoencoder(side: int, patch: int, width: int, depth: int, heads: int, narrow: int) -> tuple[nn.Module, nn.Module]:
    """timm's VisionTransformer, and from timm's blocks the rest of MAE: narrowing, mask token, decoder of two blocks."""
    vision = peers.timm().models.vision_transformer
    vit = vision.VisionTransformer(
        side, patch, num_classes=0, global_pool="", embed_dim=width, depth=depth, num_heads=heads, mlp_ratio=2
    )
    rest = nn.ModuleDict(
        {
            "narrow": nn.Linear(width, narrow),
            "blocks": nn.Sequential(*(vision.Block(narrow, 2, mlp_ratio=2, qkv_bias=True) for _ in range(2))),
            "norm": nn.LayerNorm(narrow),
        }
    )
    rest.mask_token = nn.Parameter(torch.zeros(1, 1, narrow))
    return shaken(vit), shaken(rest)


def timm_forward(vit: nn.Module, rest: nn.Module, place: Tensor, images: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """MAE's forward (2111.06377): states of class token and visible tokens, and decoder states (B, N, narrow) of all."""
    x = gather(vit.patch_embed(images) + vit.pos_embed[:, 1:], visible)
    seen = vit.norm(vit.blocks(torch.cat([(vit.cls_token + vit.pos_embed[:, :1]).expand(len(x), -1, -1), x], dim=1)))
    x = rest["narrow"](seen)
    index = visible[..., None].expand(-1, -1, x.shape[-1])
    whole = rest.mask_token.expand(len(x), place.shape[1], -1).scatter(1, index, x[:, 1:]) + place
    return seen, rest["norm"](rest["blocks"](torch.cat([x[:, :1], whole], dim=1)))[:, 1:]


@torch.inference_mode()
@pytest.mark.parametrize(
    ("size", "side", "patch", "width", "depth", "heads", "narrow"),
    [(2, 32, 8, 32, 3, 4, 16), (3, 48, 8, 64, 4, 2, 32)],
)
def test_encoder_and_masked_autoencoder_are_those_of_timm_s_parts(size, side, patch, width, depth, heads, narrow):
    vit, rest = timm_autoencoder(side, patch, width, depth, heads, narrow)
    table, narrow_table = table_of(width, heads, 2 * width, depth, class_token=True), table_of(narrow, 2, 2 * narrow, 2)
    blocks = [copied(block, table, TIMM | TIMM_MLP) for block in vit.blocks]
    narrow_blocks = [copied(block, narrow_table, TIMM | TIMM_MLP) for block in rest["blocks"]]
    parts = Parts(
        vit.patch_embed.proj, vit.cls_token, blocks, vit.norm, rest["narrow"], rest.mask_token, narrow_blocks, rest["norm"]
    )
    encoder, joint = filled(parts, table, narrow_table)
    images, coords = random(size, 3, side, side), places(side // patch, side // patch)
    vit.pos_embed[:, 1:], vit.pos_embed[:, 0] = placed(encoder.embed_position, coords), 0.0
    tokens = token_set(unfold(images, patch, stride=patch).transpose(1, 2), coords.expand(size, -1, -1))

    states = encoder(tokens)
    same(torch.cat([states.extra, states.last], dim=1), vit.forward_features(images))
    count = len(coords)
    visible, hidden = some(size, count, count).split([count // 4, count - count // 4], dim=1)
    seen, decoded = timm_forward(vit, rest, placed(joint.read.position, coords), images, visible)
    states = encoder(tokens, visible)
    same(torch.cat([states.extra, states.last], dim=1), seen)
    same(predicted(encoder, joint, tokens, visible, hidden), gather(decoded, hidden))


@torch.inference_mode()
@pytest.mark.parametrize(("side", "patch", "width", "narrow"), [(12, 4, 48, 24), (16, 4, 96, 48)])
def test_a_masked_autoencoder_of_volumes_is_monai_s(side, patch, width, narrow):
    make = peers.monai().networks.nets.MaskedAutoEncoderViT
    options = {"decoder_hidden_size": narrow, "decoder_mlp_dim": 2 * narrow, "decoder_num_layers": 2, "decoder_num_heads": 2}
    theirs = shaken(make(1, side, patch, width, 3 * width, num_layers=3, num_heads=4, qkv_bias=True, **options))
    table, narrow_table = table_of(width, 4, 3 * width, 3, class_token=True), table_of(narrow, 2, 2 * narrow, 2)
    parts = Parts(
        theirs.patch_embedding.patch_embeddings,
        theirs.cls_token,
        [copied(block, table, MONAI, MONAI_UNREAD) for block in theirs.blocks[:-1]],
        theirs.blocks[-1],
        theirs.decoder_embed,
        theirs.mask_tokens,
        [copied(block, narrow_table, MONAI, MONAI_UNREAD) for block in theirs.decoder_blocks[:-1]],
        theirs.decoder_blocks[-1],
    )
    encoder, joint = filled(parts, table, narrow_table)
    volume, coords = random(2, 1, side, side, side), places(*[side // patch] * 3)
    theirs.patch_embedding.position_embeddings.copy_(placed(encoder.embed_position, coords))
    theirs.decoder_pos_embedding.copy_(placed(joint.read.position, coords))

    expected, mask = theirs(volume)  # 1 where hidden
    count = mask.shape[1] // 4
    assert mask.sum(1).tolist() == [mask.shape[1] - count] * 2
    visible, hidden = mask.argsort(dim=1, stable=True).split([count, mask.shape[1] - count], dim=1)
    tokens = token_set(cut(volume, patch), coords.expand(2, -1, -1))
    got = predicted(encoder, joint, tokens, visible, hidden)
    same(theirs.decoder_pred(got), gather(expected, hidden))
