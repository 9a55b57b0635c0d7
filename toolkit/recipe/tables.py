"""The tables of data, tokens, backbone and training: what each key means and its type."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from toolkit.recipe.base import Decay, Periods, Positive, PositiveFloat, Share, Table


class SignalData(Table):
    """Signals: channel kinds, the grid they are brought to, and their scaling.

    ``scaling``: each channel less its mean over the window, and over the deviation there of all channels of its ``kind`` or of
    the ``channel``; or over mean and deviation of the channel in the whole recording (``session``), limited to 15; or ``none``.
    ``most_channels`` is how many channels of a recording a training sample takes; embedding takes all. ``mixed``: recordings
    of different numbers of channels share a batch, filled up with channels that count for nothing.
    ``downmix``: the model reads the mean of a recording's channels.
    """

    axes: Literal["signal"] = "signal"
    kinds: tuple[str, ...]
    rate_hz: PositiveFloat
    window_s: PositiveFloat
    scaling: Literal["kind", "channel", "session", "none"] = "kind"
    most_channels: Positive = 16
    mixed: bool = False
    downmix: bool = False

    @property
    def window(self) -> float:
        """Length of a window in seconds."""
        return self.window_s


class VolumeData(Table):
    """Volumes: contrasts, the isotropic spacing they are brought to, and the cube that a sample shows.

    Each contrast is scaled to the mean and deviation of its ``bright`` voxels, those above its mean, or of all that are not
    zero, as skull-stripped ones need (``nonzero``). ``most_channels`` as for signals: with fewer than a session has, a
    training sample is of a random subset. ``grids``: the contrasts of a session lie on the ``same`` grid, else they are
    refused, or are brought onto that of the first by what their ``headers`` say. In training alone: ``flips``, the odds that
    an axis is turned round; ``gain`` and ``shift``, by how much scaled values are multiplied and moved at most.
    """

    axes: Literal["volume"]
    kinds: tuple[str, ...]
    spacing_mm: PositiveFloat
    window_mm: PositiveFloat
    most_channels: Positive = 4
    scaling: Literal["bright", "nonzero"] = "bright"
    grids: Literal["same", "headers"] = "same"
    flips: Share = 0.0
    gain: Decay = 0.0
    shift: Annotated[float, Field(ge=0)] = 0.0

    @property
    def window(self) -> float:
        """Side of the cube in mm."""
        return self.window_mm


class PointData(Table):
    """Point clouds: how many points a sample takes, of how many rows of the file.

    Coordinates are centred and scaled into the unit sphere. ``augment``: while training each axis is then scaled by 2/3 to
    3/2 and moved by up to 0.2, as Point-MAE (2203.06604) does.
    """

    axes: Literal["points"]
    points: Positive
    window_rows: Positive
    augment: bool = False

    @property
    def window(self) -> float:
        """Rows of the file in a window."""
        return self.window_rows


class SignalTokens(Table):
    """Signal patches: samples a patch, and the channels that masks know by name (groups of channels).

    ``stride``: samples from one patch to the next, fewer than a patch where they overlap (0: a patch).
    ``normed``: patches are embedded between two layer norms, as CSFM's code does: their amplitude is not seen.
    ``identity`` is by channel name, or by ``place``: channels with a position are told apart by it alone.
    """

    kind: Literal["signal"] = "signal"
    patch: Positive
    stride: Annotated[int, Field(ge=0)] = 0
    normed: bool = False
    channels: tuple[str, ...] = ()
    identity: Literal["name", "place"] = "name"

    @property
    def step(self) -> int:
        """Samples from one patch to the next."""
        return self.stride or self.patch


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

    def frame(self, rate_hz: float) -> int:
        """Samples under a frame."""
        return round(self.window_ms * rate_hz / 1000)

    def hop(self, rate_hz: float) -> int:
        """Samples from one frame to the next."""
        return round(self.hop_ms * rate_hz / 1000)


class VolumeTokens(Table):
    """Cubes of ``patch`` voxels a side in each contrast, and the contrasts that masks know by name."""

    kind: Literal["volume"]
    patch: Positive
    channels: tuple[str, ...] = ()


class VoxelTokens(Table):
    """Occupancy of ``side`` voxels along each axis of the unit cube around the cloud, in cubes of ``patch`` voxels a side."""

    kind: Literal["voxels"]
    side: Positive
    patch: Positive
    channels: tuple[str, ...] = ()


class PointTokens(Table):
    """Groups of ``neighbours`` nearest points around ``centres`` farthest-point samples.

    ``norm``: of the small PointNet that embeds them; Point-MAE's is over the batch.
    """

    kind: Literal["points"]
    centres: Positive
    neighbours: Positive
    norm: Literal["layer", "batch"] = "layer"
    channels: tuple[str, ...] = ()


def _key(name: str, default: str) -> Discriminator:
    """Which table is meant: by the value of ``name`` in it."""
    return Discriminator(lambda t: t.get(name, default) if isinstance(t, dict) else getattr(t, name, default))


DataTable = SignalData | VolumeData | PointData
TokenizerTable = SignalTokens | SpectrogramTokens | VolumeTokens | PointTokens | VoxelTokens
AnyData = Annotated[
    Annotated[SignalData, Tag("signal")] | Annotated[VolumeData, Tag("volume")] | Annotated[PointData, Tag("points")],
    _key("axes", "signal"),
]
AnyTokens = Annotated[
    Annotated[SignalTokens, Tag("signal")]
    | Annotated[SpectrogramTokens, Tag("spectrogram")]
    | Annotated[VolumeTokens, Tag("volume")]
    | Annotated[PointTokens, Tag("points")]
    | Annotated[VoxelTokens, Tag("voxels")],
    _key("kind", "signal"),
]
# Which tokens a kind of data can be cut into.
TOKENS_OF = {"signal": ("signal", "spectrogram"), "volume": ("volume",), "points": ("points", "voxels")}


class PositionTable(Table):
    """Longest and shortest period of the position code on each axis (x, y, z, t), in the axis's unit.

    ``code``: what is added to tokens, see toolkit.model.positions. ``bands``: periods an axis of ``fourier``;
    ``frequencies`` an axis of ``space-time``, whose coordinates are divided by ``unit`` first; ``cells`` of ``cell`` a side
    along each axis of a ``grid``, whose middle is at ``middle`` (sines to begin with, ``learned`` or not; a released table
    is loaded as stored). ``every_block``: the code is added again before each block. ``jitter_m``: deviation of places
    while training. ``rotary``: the axes along which attention turns queries and keys.
    """

    bands: Positive = 8
    longest: Periods
    shortest: Periods
    code: Literal["fourier", "space-time", "mlp", "grid", "none"] = "fourier"
    frequencies: Annotated[int, Field(ge=1, le=8)] = 4
    unit: Periods = (1.0, 1.0, 1.0, 1.0)
    cells: tuple[Positive, Positive, Positive, Positive] = (1, 1, 1, 1)
    cell: Periods = (1.0, 1.0, 1.0, 1.0)
    middle: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    learned: bool = False
    every_block: bool = False
    jitter_m: Annotated[float, Field(ge=0)] = 0.0
    rotary: tuple[Literal["x", "y", "z", "t"], ...] = ()


class TransformerTable(Table):
    """A stack of pre-norm transformer blocks.

    ``bias``: of all linears, of all but queries, keys and values, or of none. ``eps``: of the norms. ``final_norm``: after
    the last block. ``dropout``: of what attention and MLP add; ``drop_path``: of the whole of it, for a sample, rising to
    this share at the last block (1603.09382). ``init``: of linears, Xavier-uniform or normal with deviation .02 cut at
    three of them. ``channels``: how tokens say whose they are: by a linear of the channel's ``code``, by a learned vector
    for each of tokenizer.channels (``own``), by a patch projection for each of them (``projection``; an encoder's), or not
    at all; channels that are not named there have the code.

    As an encoder it may carry a class token and registers (2309.16588), and do without positions (``positions``). As a
    decoder it may take states as they are (``project = false``; they go through a linear where the widths differ), and
    leave class token and registers out (``read_extra = false``).
    """

    kind: Literal["vit"] = "vit"
    width: Positive
    depth: Positive
    heads: Positive
    head_width: Positive
    mlp: Positive
    norm: Literal["layer", "rms"] = "layer"
    eps: PositiveFloat = 1e-6
    activation: Literal["gelu", "geglu", "swiglu"] = "gelu"
    bias: Literal["all", "no-qkv", "none"] = "all"
    final_norm: bool = True
    dropout: Decay = 0.0
    drop_path: Decay = 0.0
    init: Literal["xavier", "normal"] = "xavier"
    channels: Literal["code", "own", "projection", "none"] = "code"
    project: bool = True
    read_extra: bool = True
    positions: bool = True
    class_token: bool = False
    registers: Annotated[int, Field(ge=0)] = 0

    @property
    def layers(self) -> int:
        """States that an encoder can give: the embedding's and each block's."""
        return self.depth + 1


class ConvTable(Table):
    """A masked convnet of 2 or 3 scales: ``width`` features at the coarsest, half of them a scale up.

    ``blocks``: residual blocks a scale. ``kernel``: side of their convolutions, odd.
    """

    kind: Literal["convnet"]
    width: Positive
    blocks: Positive = 2
    kernel: Positive = 3
    norm: Literal["layer", "batch"] = "layer"

    @property
    def layers(self) -> int:
        """States that an encoder can give: the last."""
        return 1


class PyramidTable(Table):
    """Point tokens at several scales, the finest first: ``widths`` and ``depths`` (blocks) of each.

    From each scale to the next one token is made of every ``steps``, out of ``neighbours`` finer ones. ``radius``, in units
    of the cloud's sphere: how far tokens of a scale attend; 0 everywhere, as the released code pretrains. ``drop_path``: as
    for a transformer, at each scale.
    """

    kind: Literal["pyramid"]
    widths: tuple[Positive, ...] = (96, 192, 384)
    depths: tuple[Positive, ...] = (5, 5, 5)
    steps: tuple[Annotated[int, Field(ge=2)], ...] = (2, 4)
    neighbours: tuple[Positive, ...] = (8, 8)
    radius: tuple[Annotated[float, Field(ge=0)], ...] = (0.0, 0.0, 0.0)
    heads: Positive = 6
    drop_path: Decay = 0.0

    @property
    def width(self) -> int:
        """Numbers of a state: the coarsest scale's."""
        return self.widths[-1]

    @property
    def layers(self) -> int:
        """States that an encoder can give: the coarsest scale's, and those told of all scales."""
        return 2

    @model_validator(mode="after")
    def _fits(self) -> PyramidTable:
        scales = len(self.widths)
        for key, expected in (("depths", scales), ("radius", scales), ("steps", scales - 1), ("neighbours", scales - 1)):
            if len(getattr(self, key)) != expected:
                raise ValueError(f"encoder.{key}: {list(getattr(self, key))}, expected {expected} for {scales} encoder.widths")
        for width in self.widths:
            if width % self.heads:
                raise ValueError(f"encoder.widths: {width} is no multiple of encoder.heads = {self.heads}")
        return self


EncoderTable = TransformerTable | ConvTable | PyramidTable
AnyEncoder = Annotated[
    Annotated[TransformerTable, Tag("vit")] | Annotated[ConvTable, Tag("convnet")] | Annotated[PyramidTable, Tag("pyramid")],
    _key("kind", "vit"),
]


class EmbeddingTable(Table):
    """What ``embed`` takes: the layer (from the end, -1 the last), the mean of how many layers up to it, and the pooling.

    ``after_norm``: the last block's states are pooled as they are, and the vector has a layer norm of its own, as in
    encoders whose head was trained on that (AudioMAE's and Bird-MAE's fc_norm).
    """

    layer: int = -1
    layers: Positive = 1
    pool: Literal["mean", "max", "meanstd", "meanmax", "class", "classmax", "attention"] = "mean"
    after_norm: bool = False


class OptimizerTable(Table):
    """AdamW, or StableAdamW (2304.13013), which limits the root mean square of an update to the rate.

    The rate rises over ``warmup_share`` of the run from ``start_share`` of ``learning_rate``, then falls to ``final_share`` of
    it: along a ``cosine``, or (``trapezoid``) over the last ``decay_share`` only. ``cycles``: how often in a run this is gone
    through, as long as each has 50 steps.
    """

    kind: Literal["adamw", "stable-adamw"] = "adamw"
    learning_rate: PositiveFloat
    schedule: Literal["cosine", "trapezoid"] = "cosine"
    cycles: Positive = 1
    start_share: Share = 0.0
    final_share: Share = 0.01
    warmup_share: Share = 0.1
    decay_share: Share = 0.1
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    clip_norm: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _fits(self) -> OptimizerTable:
        if self.schedule == "trapezoid" and self.warmup_share + self.decay_share > 1:
            raise ValueError(
                f"optimizer.decay_share: {self.decay_share} and optimizer.warmup_share = {self.warmup_share} are more than a run"
            )
        return self


class TrainingTable(Table):
    """The loop: steps, samples a step, seed, and every how many steps it logs and saves."""

    steps: Positive
    batch_size: Positive
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    log_every: Positive = 10
    checkpoint_every: Positive = 200
