"""The tables of a recipe: what each key means, its type, and which values fit together."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from toolkit.errors import did_you_mean

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Periods = tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat]


class Table(BaseModel):
    """A strict TOML table: unknown keys and wrong types are errors; frozen once built."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _integers_are_numbers(cls, table: Any) -> Any:
        # TOML writes 250 where a float is meant, and has lists where the model keeps tuples.
        if not isinstance(table, dict):
            return table
        wants_float = {k for k, f in cls.model_fields.items() if f.annotation is float}
        return {k: float(v) if k in wants_float and type(v) is int else _as_tuple(v) for k, v in table.items()}


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list) else value


class SignalData(Table):
    """Signals: channel kinds, the grid they are brought to, and their scaling (one scale a kind of channel, or each its own).

    ``most_channels`` is how many channels of a recording a training sample takes; embedding takes all.
    ``downmix``: the model reads the mean of a recording's channels.
    """

    axes: Literal["signal"] = "signal"
    kinds: tuple[str, ...]
    rate_hz: PositiveFloat
    window_s: PositiveFloat
    scaling: Literal["kind", "channel", "none"] = "kind"
    most_channels: Positive = 16
    downmix: bool = False

    @property
    def window(self) -> float:
        """Length of a window in seconds."""
        return self.window_s


class VolumeData(Table):
    """Volumes: contrasts, the isotropic spacing they are brought to, and the cube that a sample shows.

    Each contrast is scaled to the mean and deviation of its brighter voxels. ``most_channels`` as for signals.
    """

    axes: Literal["volume"]
    kinds: tuple[str, ...]
    spacing_mm: PositiveFloat
    window_mm: PositiveFloat
    most_channels: Positive = 4

    @property
    def window(self) -> float:
        """Side of the cube in mm."""
        return self.window_mm


class PointData(Table):
    """Point clouds: how many points a sample takes, of how many rows of the file.

    Coordinates are centred and scaled into the unit sphere.
    """

    axes: Literal["points"]
    points: Positive
    window_rows: Positive

    @property
    def window(self) -> float:
        """Rows of the file in a window."""
        return self.window_rows


class SignalTokens(Table):
    """Signal patches: samples a patch, the channels with an identity of their own, slots for unknown ones.

    ``identity`` is by channel name, or by ``place``: channels with a position share one, those without have slots.
    """

    kind: Literal["signal"] = "signal"
    patch: Positive
    channels: tuple[str, ...] = ()
    unknown_channels: Positive = 4
    identity: Literal["name", "place"] = "name"


class SpectrogramTokens(Table):
    """Log-mel patches of ``patch`` bands by ``patch`` frames; (log energy - ``mean``) / ``deviation`` is what the model sees."""

    kind: Literal["spectrogram"]
    patch: Positive
    mels: Positive = 128
    window_ms: PositiveFloat = 25.0
    hop_ms: PositiveFloat = 10.0
    lowest_hz: Annotated[float, Field(ge=0)] = 20.0
    mean: float
    deviation: PositiveFloat
    channels: tuple[str, ...] = ()
    unknown_channels: Positive = 1

    def frame(self, rate_hz: float) -> int:
        """Samples under a frame."""
        return round(self.window_ms * rate_hz / 1000)

    def hop(self, rate_hz: float) -> int:
        """Samples from one frame to the next."""
        return round(self.hop_ms * rate_hz / 1000)


class VolumeTokens(Table):
    """Cubes of ``patch`` voxels a side in each contrast; the contrasts with an identity of their own, slots for others."""

    kind: Literal["volume"]
    patch: Positive
    channels: tuple[str, ...] = ()
    unknown_channels: Positive = 2


class PointTokens(Table):
    """Groups of ``neighbours`` nearest points around ``centres`` farthest-point samples."""

    kind: Literal["points"]
    centres: Positive
    neighbours: Positive
    channels: tuple[str, ...] = ()


def _key(name: str, default: str) -> Discriminator:
    """Which table is meant: by the value of ``name`` in it."""
    return Discriminator(lambda t: t.get(name, default) if isinstance(t, dict) else getattr(t, name, default))


DataTable = SignalData | VolumeData | PointData
TokenizerTable = SignalTokens | SpectrogramTokens | VolumeTokens | PointTokens
AnyData = Annotated[
    Annotated[SignalData, Tag("signal")] | Annotated[VolumeData, Tag("volume")] | Annotated[PointData, Tag("points")],
    _key("axes", "signal"),
]
AnyTokens = Annotated[
    Annotated[SignalTokens, Tag("signal")]
    | Annotated[SpectrogramTokens, Tag("spectrogram")]
    | Annotated[VolumeTokens, Tag("volume")]
    | Annotated[PointTokens, Tag("points")],
    _key("kind", "signal"),
]
# Which tokens a kind of data can be cut into.
TOKENS_OF = {"signal": ("signal", "spectrogram"), "volume": ("volume",), "points": ("points",)}


class PositionTable(Table):
    """Longest and shortest period of the position code on each axis (x, y, z, t), in the axis's unit."""

    bands: Positive = 8
    longest: Periods
    shortest: Periods
    rotary: bool = True


class TransformerTable(Table):
    """A stack of pre-norm transformer blocks."""

    width: Positive
    depth: Positive
    heads: Positive
    head_width: Positive
    mlp: Positive


class MaskTable(Table):
    """What is hidden. ``random``, ``spans``, ``gaps`` and ``groups`` are the odds of the ways to hide.

    ``groups_of_channels`` are hidden together: what one of them lacks the others would give away.
    """

    ratio: Share
    random: Annotated[float, Field(ge=0)] = 0.0
    spans: Annotated[float, Field(ge=0)] = 0.0
    gaps: Annotated[float, Field(ge=0)] = 0.0
    groups: Annotated[float, Field(ge=0)] = 0.0
    span_patches: tuple[int, int] = (1, 1)
    groups_of_channels: tuple[tuple[str, ...], ...] = ()


class LossTable(Table):
    """The distance between predicted and true patches, on hidden patches only; ``chamfer`` between sets of points."""

    kind: Literal["l1", "l2", "smooth_l1", "chamfer"]


class EmbeddingTable(Table):
    """What ``embed`` takes from the encoder: the layer (from the end, -1 the last) and the pooling."""

    layer: int = -1
    pool: Literal["mean", "max", "meanstd", "meanmax"] = "mean"


class OptimizerTable(Table):
    """AdamW with warm-up and cosine decay."""

    learning_rate: PositiveFloat
    final_share: Share = 0.01
    warmup_share: Share = 0.1
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    clip_norm: PositiveFloat = 1.0


class TrainingTable(Table):
    """The loop: steps, samples a step, seed, and every how many steps it logs and saves."""

    steps: Positive
    batch_size: Positive
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    log_every: Positive = 10
    checkpoint_every: Positive = 200


class Recipe(Table):
    """One resolved system: everything a run needs besides data, device and output."""

    name: str
    domains: tuple[str, ...]
    backend: Literal["vit"]
    objective: Literal["mae"]
    paper: str
    size: str
    data: AnyData
    tokenizer: AnyTokens
    position: PositionTable
    encoder: TransformerTable
    decoder: TransformerTable
    mask: MaskTable
    loss: LossTable
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
        _check_window(self.data, self.tokenizer)
        for which, part in (("encoder", self.encoder), ("decoder", self.decoder)):
            if part.head_width % 2:
                raise ValueError(f"{which}.head_width: {part.head_width} is odd; rotary positions turn pairs")
        if not -self.encoder.depth - 1 <= self.embedding.layer <= -1:
            raise ValueError(
                f"embedding.layer: got {self.embedding.layer}, expected -1 (the last) to {-self.encoder.depth - 1} "
                f"(before the first of {self.encoder.depth} blocks)"
            )
        low, high = self.mask.span_patches
        if not 1 <= low <= high:
            raise ValueError(f"mask.span_patches: got [{low}, {high}], expected 1 <= shortest <= longest")
        for name in (n for group in self.mask.groups_of_channels for n in group):
            if name not in self.tokenizer.channels:
                raise ValueError(
                    f"mask.groups_of_channels: '{name}' is not in tokenizer.channels. "
                    f"{did_you_mean(name, self.tokenizer.channels)[:-1]}"
                )
        if self.mask.random + self.mask.spans + self.mask.gaps + self.mask.groups == 0:
            raise ValueError("mask: random, spans, gaps and groups are all 0; nothing says how to hide")
        return self


def _check_window(data: DataTable, tokenizer: TokenizerTable) -> None:
    """Raises ValueError where a window is not cut into whole patches, or too small for one."""
    if isinstance(data, SignalData) and tokenizer.kind == "signal":
        samples = data.rate_hz * data.window_s
        if abs(samples / tokenizer.patch - round(samples / tokenizer.patch)) > 1e-9:
            raise ValueError(
                f"data.window_s: {data.window_s} s at {data.rate_hz} Hz is {samples:g} samples, "
                f"not a multiple of tokenizer.patch = {tokenizer.patch} samples"
            )
    elif isinstance(data, VolumeData) and isinstance(tokenizer, VolumeTokens):
        voxels = data.window_mm / data.spacing_mm
        if abs(voxels / tokenizer.patch - round(voxels / tokenizer.patch)) > 1e-9:
            raise ValueError(
                f"data.window_mm: {data.window_mm} mm at {data.spacing_mm} mm is {voxels:g} voxels, "
                f"not a multiple of tokenizer.patch = {tokenizer.patch} voxels"
            )
    elif isinstance(data, SignalData) and isinstance(tokenizer, SpectrogramTokens):
        _check_spectrogram(data, tokenizer)
    elif isinstance(data, PointData) and isinstance(tokenizer, PointTokens):
        for key in ("centres", "neighbours"):
            if (count := getattr(tokenizer, key)) > data.points:
                raise ValueError(f"tokenizer.{key}: {count} is more than data.points = {data.points}")


def _check_spectrogram(data: SignalData, tokenizer: SpectrogramTokens) -> None:
    """Raises ValueError where frames, bands or patches do not come out."""
    if tokenizer.mels % tokenizer.patch:
        raise ValueError(f"tokenizer.mels: {tokenizer.mels} is not a multiple of tokenizer.patch = {tokenizer.patch}")
    for key, samples, least in (("hop_ms", tokenizer.hop(data.rate_hz), 1), ("window_ms", tokenizer.frame(data.rate_hz), 2)):
        if samples < least:
            raise ValueError(
                f"tokenizer.{key}: {getattr(tokenizer, key)} ms at {data.rate_hz} Hz is {samples} samples, expected {least} or"
                " more"
            )
    if data.window_s * data.rate_hz < tokenizer.frame(data.rate_hz):
        raise ValueError(
            f"data.window_s: {data.window_s} s is shorter than one frame of tokenizer.window_ms = {tokenizer.window_ms} ms"
        )
    if tokenizer.lowest_hz >= data.rate_hz / 2:
        raise ValueError(f"tokenizer.lowest_hz: {tokenizer.lowest_hz} Hz is not below half of data.rate_hz = {data.rate_hz} Hz")
