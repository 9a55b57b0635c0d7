"""One resolved recipe, and which of its values fit together."""

from __future__ import annotations

from pydantic import model_validator

from toolkit.errors import did_you_mean
from toolkit.recipe.base import Table
from toolkit.recipe.objective import PER_SAMPLE, LossTable, MaskTable, PassTable, TeacherTable, TermTable
from toolkit.recipe.tables import (
    TOKENS_OF,
    AnyData,
    AnyEncoder,
    AnyTokens,
    ConvTable,
    EmbeddingTable,
    OptimizerTable,
    PositionTable,
    PyramidTable,
    TrainingTable,
    TransformerTable,
)
from toolkit.recipe.windows import check_window


class Recipe(Table):
    """One resolved system: everything a run needs besides data, device and output."""

    name: str
    domains: tuple[str, ...]
    objective: str
    paper: str
    size: str
    data: AnyData
    tokenizer: AnyTokens
    position: PositionTable
    encoder: AnyEncoder
    decoder: TransformerTable
    mask: MaskTable
    loss: LossTable
    passes: tuple[PassTable, ...] = (PassTable(),)
    terms: tuple[TermTable, ...] = (TermTable(name="reconstruction"),)
    teacher: TeacherTable | None = None
    embedding: EmbeddingTable = EmbeddingTable()
    optimizer: OptimizerTable
    training: TrainingTable

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.tokenizer.kind not in TOKENS_OF[self.data.axes]:
            raise ValueError(
                f"tokenizer.kind: '{self.tokenizer.kind}' does not cut data.axes = '{self.data.axes}', expected "
                f"{' or '.join(TOKENS_OF[self.data.axes])}"
            )
        if (self.loss.kind == "chamfer") != (self.tokenizer.kind == "points"):
            raise ValueError(f"loss.kind: got '{self.loss.kind}' for {self.tokenizer.kind} tokens; chamfer is for points")
        check_window(self.data, self.tokenizer)
        self._check_backbone()
        self._check_masks()
        self._check_terms()
        return self

    @property
    def backend(self) -> str:
        """The kind of encoder."""
        return self.encoder.kind

    @property
    def pools_by_attention(self) -> bool:
        """Whether a term trains a pooling by attention."""
        return any(term.pool in ("attention", "query") for term in self.terms)

    def mask_of(self, number: int) -> MaskTable:
        """The mask of a pass."""
        return self.passes[number].mask or self.mask

    def _check_backbone(self) -> None:
        layers = self.encoder.layers
        for which, part in (("encoder", self.encoder), ("decoder", self.decoder)):
            if isinstance(part, TransformerTable) and part.head_width % 2:
                raise ValueError(f"{which}.head_width: {part.head_width} is odd; rotary positions turn pairs")
            if isinstance(part, TransformerTable) and part.head_width // 2 < len(set(self.position.rotary)):
                raise ValueError(f"{which}.head_width: {part.head_width} has fewer pairs than position.rotary has axes")
        if isinstance(self.encoder, ConvTable) and self.tokenizer.kind == "points":
            raise ValueError("encoder.kind: a convnet needs tokens on a grid; for point clouds set tokenizer.kind = 'voxels'")
        if isinstance(self.encoder, PyramidTable) and self.tokenizer.kind != "points":
            raise ValueError(f"encoder.kind: a pyramid is of point tokens, tokenizer.kind is '{self.tokenizer.kind}'")
        if isinstance(self.encoder, PyramidTable) and self.position.rotary:
            raise ValueError("position.rotary: a pyramid's blocks do not turn queries and keys; use position.code")
        if (
            isinstance(self.encoder, ConvTable)
            and self.tokenizer.kind == "signal"
            and self.tokenizer.step != self.tokenizer.patch
        ):
            raise ValueError(
                f"tokenizer.stride: patches of {self.tokenizer.patch} samples every {self.tokenizer.stride} overlap, and a "
                "convnet needs tokens that tile the signal; set tokenizer.stride = 0"
            )
        if self.decoder.class_token or self.decoder.registers:
            raise ValueError("decoder: class_token and registers are the encoder's")
        if self.decoder.channels == "projection":
            raise ValueError("decoder.channels: 'projection' is of patches, which only an encoder reads")
        if not -layers <= self.embedding.layer <= -1:
            raise ValueError(
                f"embedding.layer: got {self.embedding.layer}, expected -1 (the last) to {-layers} "
                f"(before the first of {layers - 1} blocks)"
            )
        if self.embedding.after_norm and (self.embedding.layer, self.embedding.layers) != (-1, 1):
            raise ValueError("embedding.after_norm: the vector is of the last layer alone, embedding.layer = -1")
        if self.embedding.pool in ("class", "classmax") and not getattr(self.encoder, "class_token", False):
            raise ValueError(f"embedding.pool: '{self.embedding.pool}' needs encoder.class_token = true")
        if self.embedding.pool == "attention" and not self.pools_by_attention:
            raise ValueError("embedding.pool: 'attention' needs a term that pools by attention, which trains its weights")

    def _check_masks(self) -> None:
        for mask in [self.mask, *(p.mask for p in self.passes if p.mask)]:
            for name in (n for group in mask.groups_of_channels for n in group):
                if name not in self.tokenizer.channels:
                    raise ValueError(
                        f"mask.groups_of_channels: '{name}' is not in tokenizer.channels. "
                        f"{did_you_mean(name, self.tokenizer.channels)}"
                    )

            if mask.guided and (self.teacher is None or self.teacher.kind != "image"):
                raise ValueError("mask.guided: what is salient is said by a teacher of pictures, teacher.kind = 'image'")

    def _check_terms(self) -> None:
        if not self.passes or not self.terms:
            raise ValueError("passes and terms: expected at least one of each")
        if self.teacher is not None and self.teacher.kind == "image" and self.tokenizer.kind != "points":
            raise ValueError("teacher.kind: 'image' is shown views of a cloud; it needs tokenizer.kind = 'points'")
        if self.data.axes != "points" and any(each.view == "beams" for each in self.passes):
            raise ValueError(f"passes.view: 'beams' are of point clouds, data.axes is '{self.data.axes}'")
        names = [term.name for term in self.terms]
        if len(set(names)) < len(names):
            raise ValueError(f"terms.name: {', '.join(names)} are not all different; the log has a line for each")
        for number, term in enumerate(self.terms):
            check_term(self, term, names[:number])


def check_term(recipe: Recipe, term: TermTable, before: list[str]) -> None:
    """Raises ValueError where a term asks for what its recipe does not have."""
    where = f"of term '{term.name}'"
    for key in ("on", "beside", "truth"):
        if (number := getattr(term, key)) is not None and number >= len(recipe.passes):
            raise ValueError(f"terms.{key} {where}: there is no pass {number}, passes are 0 to {len(recipe.passes) - 1}")
    own = recipe.passes[term.on]
    for key in ("of", "twin", "like"):
        if (other := getattr(term, key)) is not None and other not in before:
            raise ValueError(f"terms.{key} {where}: '{other}' is not a term before it. {did_you_mean(other, before)}")
    if term.like is not None:
        check_like(term, next(other for other in recipe.terms if other.name == term.like))
    if term.target == "pooled" and recipe.teacher is not None and recipe.teacher.kind == "frozen":
        raise ValueError(f"terms.target {where}: 'pooled' needs a teacher that follows, whose projection is learned with it")
    if term.target in ("latent", "pooled") and recipe.teacher is None:
        raise ValueError(f"terms.target {where}: '{term.target}' needs a [teacher]")
    check_view(recipe, term)
    if (term.predictor == "unet") != isinstance(recipe.encoder, ConvTable) and term.predictor in ("unet", "joint"):
        raise ValueError(f"terms.predictor {where}: '{term.predictor}' does not fit encoder.kind = '{recipe.encoder.kind}'")
    if term.predictor == "none" and own.fill == ("drop",) and term.queries != "visible":
        raise ValueError(f"terms.predictor {where}: 'none' reads states of the hidden tokens, which fill = 'drop' leaves out")
    if not isinstance(recipe.encoder, TransformerTable) and own.keys == "visible":
        raise ValueError(f"passes.keys {where}: encoder.kind = '{recipe.encoder.kind}' has no attention to limit")
    check_image(recipe, term)
    if recipe.mask_of(term.on).ratio == 0 and term.queries in ("hidden", "next") and term.target not in PER_SAMPLE:
        raise ValueError(f"terms.queries {where}: pass {term.on} hides nothing (mask.ratio = 0), so there is nothing to predict")
    if term.loss == "entropy" and recipe.training.batch_size < 2:
        raise ValueError(f"training.batch_size: an entropy {where} needs 2 samples or more")
    if term.pool == "class" and not getattr(recipe.encoder, "class_token", False):
        raise ValueError(f"terms.pool {where}: 'class' needs encoder.class_token = true")


def check_image(recipe: Recipe, term: TermTable) -> None:
    """Raises ValueError where a term's target and the teacher's kind do not fit: pictures, or tokens."""
    shown = recipe.teacher is not None and recipe.teacher.kind == "image"
    if term.target == "image" and not shown:
        raise ValueError(f"terms.target of term '{term.name}': 'image' needs teacher.kind = 'image'")
    if term.target in ("latent", "pooled") and shown:
        raise ValueError(f"terms.target of term '{term.name}': a teacher of pictures has no states of tokens; use 'image'")


def check_view(recipe: Recipe, term: TermTable) -> None:
    """Raises ValueError where a term wants boxes that are not there, or a view of another pass that is none."""
    own = recipe.passes[term.on]
    if term.target == "box" and (recipe.data.axes != "points" or own.view == "style"):
        raise ValueError(
            f"terms.target of term '{term.name}': a 'box' is of a point cloud whose points lie as they were measured, got "
            f"data.axes = '{recipe.data.axes}', passes.view = '{own.view}'"
        )
    if term.target == "view" and (term.truth is None or term.truth == term.on or recipe.passes[term.truth].repeat != own.repeat):
        raise ValueError(
            f"terms.truth of term '{term.name}': a 'view' is that of another pass than {term.on}, with as many repeats; name it"
        )


def check_like(term: TermTable, other: TermTable) -> None:
    """Raises ValueError where a term cannot predict with the weights of another."""
    for key in ("predictor", "target", "depth", "read_queries", "mix_layers", "reveal", "last_layers", "like"):
        mine, theirs = getattr(term, key) if key != "like" else None, getattr(other, key)
        if mine != theirs:
            raise ValueError(
                f"terms.like of term '{term.name}': '{other.name}' has {key} = {theirs!r}, expected {mine!r} as here"
            )
    if (term.beside is None) != (other.beside is None):
        raise ValueError(f"terms.like of term '{term.name}': only one of it and '{other.name}' reads a second pass (beside)")
