"""The tables of an objective: what is hidden, what is looked at, what is predicted, and from whom."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from toolkit.recipe.base import Odds, Positive, PositiveFloat, Share, Table

Index = Annotated[int, Field(ge=0)]
Fill = Literal["drop", "keep", "token", "zero", "noise", "foreign"]
Predictor = Literal["none", "cross", "joint", "chain", "same", "pool", "unet"]
Target = Literal[
    "raw",
    "patch_norm",
    "spectrum",
    "change",
    "codes",
    "residual_codes",
    "latent",
    "pooled",
    "content",
    "coordinate",
    "twin",
    "subject",
    "image",
    "box",
    "view",
    "none",
]
Distance = Literal["patch", "l1", "l2", "smooth_l1", "cosine", "sce", "ce", "focal", "nce", "sinkhorn", "pairs", "entropy"]


class WaysTable(Table):
    """The odds of the ways to hide; see toolkit.objective.masks for each."""

    random: Odds = 0.0
    spans: Odds = 0.0
    gaps: Odds = 0.0
    groups: Odds = 0.0
    blocks: Odds = 0.0
    regions: Odds = 0.0
    budgets: Odds = 0.0
    prefix: Odds = 0.0
    spacetime: Odds = 0.0

    @model_validator(mode="after")
    def _some(self) -> WaysTable:
        if not any(self.model_dump().values()):
            raise ValueError(f"mask.ways: {', '.join(type(self).model_fields)} are all 0; nothing says how to hide")
        return self


class MaskStage(Table):
    """What holds from this share of the run on; what is left out stays as it was (a curriculum, as BIOptimus's)."""

    start: Share
    ratio: Share | None = None
    ways: WaysTable | None = None


class MaskTable(Table):
    """What is hidden: which share of the tokens, chosen in which ways.

    ``groups_of_channels`` are hidden together: what one of them lacks the others would give away.
    ``block``: sides of a block as shares of the sample's extent. ``keep``: blocks are what stays visible.
    ``regions``: how many a sample is divided into. ``radius_m`` (in the unit of places, metres for electrodes) and
    ``length_patches`` of a ball in space and time; ``hold``: the share of the channels that are hidden throughout, in balls of
    ``hold_radius_m``. ``stages`` change ratio and ways during the run.
    ``neighbourhoods``: tokens are hidden by whole ones of so many farthest-point centres (0: each on its own). ``guided``:
    the more salient to a teacher of pictures, the likelier a token stays visible.
    """

    ratio: Share
    ways: WaysTable
    span_patches: tuple[int, int] = (1, 1)
    groups_of_channels: tuple[tuple[str, ...], ...] = ()
    block: tuple[Share, Share] = (0.1, 0.3)
    keep: bool = False
    regions: Positive = 6
    radius_m: PositiveFloat = 0.03
    length_patches: Positive = 3
    hold: Share = 0.0
    hold_radius_m: PositiveFloat = 0.04
    neighbourhoods: Annotated[int, Field(ge=0)] = 0
    guided: bool = False
    stages: tuple[MaskStage, ...] = ()

    @model_validator(mode="after")
    def _ordered(self) -> MaskTable:
        low, high = self.span_patches
        if not 1 <= low <= high:
            raise ValueError(f"mask.span_patches: got [{low}, {high}], expected 1 <= shortest <= longest")
        if not self.block[0] <= self.block[1]:
            raise ValueError(f"mask.block: got {list(self.block)}, expected least <= greatest share")
        drawn = [self.ways, *(stage.ways for stage in self.stages if stage.ways is not None)]
        if self.guided and any(odds for ways in drawn for way, odds in ways.model_dump().items() if way != "random"):
            raise ValueError("mask.guided: salience weighs a draw at random; set mask.ways = { random = 1.0 }")
        return self


class LossTable(Table):
    """The distance between predicted and true patches; ``chamfer`` between sets of points."""

    kind: Literal["l1", "l2", "smooth_l1", "chamfer"]


class PassTable(Table):
    """One look at a sample: the view, the mask, and what stands in for what is hidden.

    ``view``: the sample as it is, another window of the same recording, the sample in the style of another, or, of a
    cloud, what another scanner would have seen of it (``beams``).
    ``mask``: its own instead of the recipe's. ``fill``: hidden tokens do not enter (``drop``), enter as they are
    (``keep``), or are replaced; of several fills each sample draws one. ``swapped``: this share of the hidden
    tokens holds another token of the sample instead. ``noise``: deviation of the noise, in units of what is
    visible. ``keys = "visible"``: only visible tokens can be attended. ``repeat``: masks a sample.
    """

    view: Literal["plain", "other", "style", "beams"] = "plain"
    mask: MaskTable | None = None
    fill: tuple[Fill, ...] = ("drop",)
    swapped: Share = 0.0
    noise: PositiveFloat = 1.0
    keys: Literal["all", "visible"] = "all"
    repeat: Positive = 1

    @model_validator(mode="after")
    def _fits(self) -> PassTable:
        if not self.fill or ("drop" in self.fill and len(self.fill) > 1):
            raise ValueError(f"passes.fill: got {list(self.fill)}; one or more, and 'drop' only alone: counts must be equal")
        if self.swapped and "drop" in self.fill:
            raise ValueError("passes.swapped: hidden tokens that are dropped cannot hold another; choose a fill")
        return self


class TermTable(Table):
    """One term of the loss: on which pass, which tokens are predicted, by what, towards what, at which distance.

    ``queries = "next"``: the first ``share`` of the hidden tokens, after a prefix those that come next.
    Options belong to a predictor, a target or a loss (``OPTIONS``); one that would do nothing is refused.
    ``memory``: what a predictor reads. ``beside``: a pass whose states it reads as well. ``of``: the term whose
    prediction a chain continues, or whose states are compared (``same``) with those of the term ``twin``.
    ``like``: the term whose weights predict for this one too. ``read_queries``: queries are part of what they attend.
    ``mix_layers``: a learned mix of all layers is read. ``last_layers``: the mean of as many. ``reveal``: share of the
    queries that can be attended before the last block. ``truth``: the pass that the target comes from.
    ``sum_channels``: the loss is the sum over channels of the mean of each, instead of one mean. ``sees``: what
    the teacher sees. ``rate``: how many times the optimizer's rate a classifier of subjects learns at: an adversary
    that does not keep up is none.
    """

    name: Annotated[str, Field(pattern="^[a-z][a-z0-9_-]*$")]
    on: Index = 0
    queries: Literal["hidden", "next", "visible", "all"] = "hidden"
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    weight: PositiveFloat = 1.0

    predictor: Predictor = "cross"
    depth: Positive | None = None
    memory: Literal["context", "visible"] | None = None
    beside: Index | None = None
    of: str | None = None
    like: str | None = None
    read_queries: bool | None = None
    mix_layers: bool | None = None
    last_layers: Positive | None = None
    reveal: Annotated[float, Field(gt=0, le=1)] | None = None
    pool: Literal["mean", "max", "class", "attention", "query"] | None = None
    gate: Literal["stop", "reverse"] | None = None
    gate_scale: PositiveFloat | None = None

    target: Target = "raw"
    truth: Index | None = None
    sum_channels: bool | None = None
    rate: PositiveFloat | None = None
    twin: str | None = None
    sees: Literal["all", "hidden"] | None = None
    layers: Positive | None = None
    norm: Literal["none", "layer", "instance"] | None = None
    codes: Annotated[int, Field(ge=2)] | None = None
    levels: Positive | None = None

    loss: Distance = "patch"
    gamma: PositiveFloat | None = None
    temperature: PositiveFloat | None = None
    prototypes: Annotated[int, Field(ge=2)] | None = None
    partners: Literal["same", "all"] | None = None

    @model_validator(mode="after")
    def _fits(self) -> TermTable:
        chosen = {"predictor": self.predictor, "target": self.target, "loss": self.loss}
        allowed = {option for key, value in chosen.items() for option in OPTIONS[key].get(value, ())}
        for option in sorted({o for table in OPTIONS.values() for options in table.values() for o in options} - allowed):
            if getattr(self, option) is not None:
                raise ValueError(
                    f"terms.{option} of term '{self.name}' would do nothing with "
                    + ", ".join(f"{key} = '{value}'" for key, value in chosen.items())
                )
        if self.target not in TARGETS_OF.get(self.loss, (self.target,)) or self.loss not in LOSSES_OF.get(
            self.target, (self.loss,)
        ):
            raise ValueError(f"terms.loss: '{self.loss}' cannot compare with target '{self.target}' in term '{self.name}'")
        if self.loss == "sce" and self.gamma is not None and self.gamma < 1:
            raise ValueError(f"terms.gamma of term '{self.name}': got {self.gamma}, expected 1 or more for loss = 'sce'")
        if self.gate is not None and self.pool in ("attention", "query"):
            raise ValueError(
                f"terms.gate of term '{self.name}': the weights of pool = '{self.pool}' would be gated with the encoder"
            )
        if self.gate_scale is not None and self.gate != "reverse":
            raise ValueError(f"terms.gate_scale of term '{self.name}' is for gate = 'reverse'")
        if self.predictor in ("chain", "same") and self.of is None:
            raise ValueError(f"terms.of of term '{self.name}': predictor = '{self.predictor}' goes on from another term; name it")
        if (self.target == "twin") != (self.predictor == "same") or (self.target == "twin") != (self.twin is not None):
            raise ValueError(
                f"term '{self.name}': predictor = 'same' (of one term), target = 'twin' (twin, another) belong together"
            )
        if self.target in PER_SAMPLE and self.predictor != "pool":
            raise ValueError(f"terms.predictor of term '{self.name}': target '{self.target}' is one a sample, expected 'pool'")
        return self


PER_SAMPLE = ("pooled", "subject", "view", "none")  # targets that a whole sample has, not each token
OPTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "predictor": {
        "none": ("last_layers", "like"),
        "cross": ("depth", "like", "memory", "beside", "read_queries", "mix_layers"),
        "joint": ("depth", "like", "memory", "beside", "reveal"),
        "chain": ("depth", "of"),
        "same": ("of",),
        "pool": ("pool", "mix_layers", "last_layers", "gate", "gate_scale"),
        "unet": ("depth",),
    },
    "target": {
        "raw": ("sum_channels",),
        "patch_norm": ("sum_channels",),
        "codes": ("codes",),
        "residual_codes": ("codes", "levels"),
        "latent": ("truth", "sees", "layers", "norm"),
        "image": ("norm",),
        "pooled": ("truth",),
        "view": ("truth",),
        "subject": ("rate",),
        "twin": ("twin",),
    },
    "loss": {
        "sce": ("gamma",),
        "focal": ("gamma",),
        "nce": ("temperature",),
        "sinkhorn": ("prototypes", "temperature"),
        "pairs": ("partners",),
    },
}
# Which targets a loss can compare with, and the other way round; what is not named goes with everything else.
TARGETS_OF: dict[str, tuple[str, ...]] = {
    "patch": ("raw", "patch_norm"),
    "ce": ("codes", "residual_codes", "subject"),
    "focal": ("codes", "residual_codes", "subject"),
    "nce": ("content", "coordinate", "latent", "spectrum", "pooled", "view"),
    "sinkhorn": ("latent", "content"),
    "pairs": ("twin",),
    "entropy": ("none",),
}
LOSSES_OF: dict[str, tuple[str, ...]] = {
    "codes": ("ce", "focal"),
    "residual_codes": ("ce", "focal"),
    "subject": ("ce", "focal"),
    "content": ("nce", "sinkhorn"),
    "coordinate": ("nce",),
    "twin": ("pairs",),
    "box": ("l1", "l2", "smooth_l1"),
    "view": ("nce",),
    "none": ("entropy",),
}


class TeacherTable(Table):
    """Where latent targets come from.

    ``ema``: weights that follow the encoder's, the rate from ``start`` to ``end`` over the run; ``copy``: the encoder's
    own; ``frozen``: those of the model at ``path``. ``image``: no tokens' states but the features of pictures, by the image
    model at ``path``, see toolkit.objective.image_teacher.
    """

    kind: Literal["ema", "copy", "frozen", "image"]
    start: Share = 0.996
    end: Share = 1.0
    path: str = ""

    @model_validator(mode="after")
    def _fits(self) -> TeacherTable:
        if self.path and self.kind not in ("frozen", "image"):
            raise ValueError("teacher.path: the model that teaches, for teacher.kind = 'frozen' or 'image' alone")
        if self.kind == "ema" and self.start > self.end:
            raise ValueError(f"teacher.start: {self.start} is above teacher.end = {self.end}")
        return self
