"""Windows that are cut into whole patches."""

from __future__ import annotations

from toolkit.recipe.tables import (
    DataTable,
    PointData,
    PointTokens,
    SignalData,
    SpectrogramTokens,
    TokenizerTable,
    VolumeData,
    VolumeTokens,
    VoxelTokens,
)


def check_window(data: DataTable, tokenizer: TokenizerTable) -> None:
    """Raises ValueError where a window is not cut into whole patches, or too small for one."""
    if isinstance(data, SignalData) and tokenizer.kind == "signal":
        samples = data.rate_hz * data.window_s
        if tokenizer.step > tokenizer.patch:
            raise ValueError(
                f"tokenizer.stride: {tokenizer.stride} samples are more than tokenizer.patch = {tokenizer.patch}; what lies "
                "between patches would not be read"
            )
        if samples < tokenizer.patch:
            raise ValueError(
                f"data.window_s: {data.window_s} s at {data.rate_hz} Hz is {samples:g} samples, fewer than "
                f"tokenizer.patch = {tokenizer.patch} samples"
            )
        if tokenizer.step == tokenizer.patch and abs(samples / tokenizer.patch - round(samples / tokenizer.patch)) > 1e-9:
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
    elif isinstance(tokenizer, VoxelTokens):
        if tokenizer.side % tokenizer.patch:
            raise ValueError(f"tokenizer.side: {tokenizer.side} voxels are not a multiple of tokenizer.patch = {tokenizer.patch}")
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
