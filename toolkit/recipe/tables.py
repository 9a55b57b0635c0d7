"""The tables of data, tokens, backbone and training: what each key means and its type."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from toolkit.recipe.base import Decay, Periods, Positive, PositiveFloat, Share, Table


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
    """Signal patches: samples a patch, and the channels that masks know by name (groups of channels).

    ``identity`` is by channel name, or by ``place``: channels with a position are told apart by it alone.
    """

    kind: Literal["signal"] = "signal"
    patch: Positive
    channels: tuple[str, ...] = ()
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
    """Groups of ``neighbours`` nearest points around ``centres`` farthest-point samples."""

    kind: Literal["points"]
    centres: Positive
    neighbours: Positive
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

    ``fourier``: a code added to tokens. ``rotary``: the axes along which attention turns queries and keys.
    """

    bands: Positive = 8
    longest: Periods
    shortest: Periods
    fourier: bool = True
    rotary: tuple[Literal["x", "y", "z", "t"], ...] = ()


class TransformerTable(Table):
    """A stack of pre-norm transformer blocks.

    As an encoder it may carry a class token and registers (2309.16588), and do without positions (``positions``).
    """

    kind: Literal["vit"] = "vit"
    width: Positive
    depth: Positive
    heads: Positive
    head_width: Positive
    mlp: Positive
    norm: Literal["layer", "rms"] = "layer"
    activation: Literal["gelu", "geglu", "swiglu"] = "gelu"
    positions: bool = True
    class_token: bool = False
    registers: Annotated[int, Field(ge=0)] = 0


class ConvTable(Table):
    """A masked convnet of 2 or 3 scales: ``width`` features at the coarsest, half of them a scale up.

    ``blocks``: residual blocks a scale. ``kernel``: side of their convolutions, odd.
    """

    kind: Literal["convnet"]
    width: Positive
    blocks: Positive = 2
    kernel: Positive = 3
    norm: Literal["layer", "batch"] = "layer"


EncoderTable = TransformerTable | ConvTable
AnyEncoder = Annotated[Annotated[TransformerTable, Tag("vit")] | Annotated[ConvTable, Tag("convnet")], _key("kind", "vit")]


class EmbeddingTable(Table):
    """What ``embed`` takes: the layer (from the end, -1 the last), the mean of how many layers up to it, and the pooling."""

    layer: int = -1
    layers: Positive = 1
    pool: Literal["mean", "max", "meanstd", "meanmax", "class", "attention"] = "mean"


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
