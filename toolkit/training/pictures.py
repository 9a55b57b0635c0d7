"""The pictures of a run's report: what a trained model rebuilds of samples it was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from toolkit.corpus.batches import Batch
from toolkit.model import tokenizers
from toolkit.model.masked import MaskedModel
from toolkit.model.tokens import gather
from toolkit.objective.masks import MaskSampler
from toolkit.objective.scale import step_generator, visible_scale
from toolkit.report.panels import panels_png

SHOWN = 2


@torch.inference_mode()
def reconstructions_png(path: Path, model: MaskedModel, batch: Batch, device: torch.device) -> Path | None:
    """Original, masked and rebuilt, of the first samples of a batch; None for a model that rebuilds no patches."""
    term = model.completes
    if term is None:
        return None
    recipe, few = model.recipe, _first(batch)
    tokenizer = tokenizers.build(recipe)
    tokens = tokenizer.tokenize(few)
    mask = MaskSampler(recipe.mask_of(term.on), recipe.tokenizer.channels).sample(
        tokens, step_generator(recipe.training.seed, 0, 3), 1.0
    )
    factor = visible_scale(tokens, mask.visible)[..., None]
    scaled = replace(tokens, patches=tokens.patches / factor).to(device)
    training = model.training
    predicted = model.eval()(scaled, mask.visible.to(device), mask.hidden.to(device)).float().cpu()
    model.train(training)
    rebuilt = tokens.patches.scatter(1, mask.hidden[..., None].expand_as(predicted), predicted * gather(factor, mask.hidden))
    title = f"{recipe.name}: visible as they are, hidden as the model predicts them"
    return panels_png(path, tokenizer, recipe, tokens, mask.visible, rebuilt, few.channels, title)


def _first(batch: Batch) -> Batch:
    return Batch(batch.values[:SHOWN], batch.valid[:SHOWN], batch.channels[:SHOWN], batch.sources[:SHOWN], batch.subjects[:SHOWN])
