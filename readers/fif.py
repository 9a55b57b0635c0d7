"""FIF recordings of MNE and Elekta/MEGIN systems: the measurement info through MNE, the samples as they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from readers.eeg_matrix import MAX_CHANNELS, MAX_RATE_HZ, Layout, MatrixRecording, apply
from readers.electrodes import identify
from readers.fif_tags import Part, data_blocks, read_parts, require_raw
from readers.patching import Scratch
from readers.schema import Channel, Event, Patch, ReadError, Recording, Written

# FIFF_UNIT codes.
_UNITS = {107: "V", 112: "T", 201: "T/m"}
_KINDS = {"eeg": "eeg", "seeg": "seeg", "ecog": "ecog", "eog": "eog", "ecg": "ecg", "emg": "emg", "resp": "resp", "stim": "stim",
          "temperature": "temp", "mag": "mag", "grad": "grad", "misc": "misc", "bio": "misc", "gsr": "misc"}  # fmt: skip


@contextmanager
def mne_errors(path: Path) -> Iterator[None]:
    """Turn whatever MNE raises into a ReadError."""
    try:
        yield
    except ReadError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise ReadError(f"{path.name} cannot be read: {type(error).__name__}, {reason}") from error


class FifRecording(MatrixRecording):
    """A raw FIF recording, in one file or split over several."""

    format = "fif"

    def __init__(self, path: Path) -> None:
        """Check the tags and read the measurement info; no sample is read. Raises ReadError."""
        if path.name.lower().endswith(".gz"):
            raise ReadError(f"{path.name} is compressed, which allows no reading of windows: unpack it with gunzip first")
        self.path = path
        parts = read_parts(path)
        require_raw(parts)
        self._files = tuple(part.path for part in parts)
        with mne_errors(path):
            self._read(parts)

    def _read(self, parts: list[Part]) -> None:
        import mne

        path = self.path
        raw = mne.io.read_raw_fif(path, preload=False, allow_maxshield=True, verbose="error")
        info = raw.info
        rate, n_channels = float(info["sfreq"]), int(info["nchan"])
        if not (0 < rate <= MAX_RATE_HZ and 0 < n_channels <= MAX_CHANNELS):
            raise ReadError(f"{path.name} claims {n_channels} channels at {rate:g} Hz")
        blocks, dtype = data_blocks(parts, n_channels)
        self.layout = Layout(tuple(blocks), dtype, n_channels)
        if self.layout.n_samples != len(raw.times):
            raise ReadError(f"{path.name} holds {self.layout.n_samples} samples, MNE finds {len(raw.times)}")
        self.gains = tuple(float(ch["cal"]) * float(ch["range"]) for ch in info["chs"])
        if not all(np.isfinite(gain) and gain != 0 for gain in self.gains):
            raise ReadError(f"{path.name} has a channel whose calibration is 0 or no number")
        date = info["meas_date"]
        start = (date + timedelta(seconds=raw.first_time)).isoformat() if date else None
        missing = sum(b.start - a.stop for a, b in pairwise(blocks))
        notes = [f"gaps of {missing / rate:g} s in all"] if missing else []
        channels = _channels(info, raw.get_channel_types(), dtype)
        self._describe(channels, mne_events(raw.annotations, raw.first_time), start, _ids(info), notes)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the recording, the handle first."""
        return self._files


def _ids(info: Any) -> dict[str, str]:
    who = info.get("subject_info") or {}
    subject = str(who.get("his_id") or who.get("id") or "")
    return {"subject": subject} if subject else {}


def _channels(info: Any, types: Sequence[str], dtype: np.dtype) -> list[Channel]:
    units = [_UNITS.get(int(ch["unit"])) for ch in info["chs"]]
    identities = identify(info["ch_names"], units, [_KINDS.get(kind, kind) for kind in types])
    found = []
    for ch, unit, identity in zip(info["chs"], units, identities, strict=True):
        place, frame, source = identity.position, identity.position_frame, identity.position_source
        own = np.asarray(ch["loc"], np.float64)[:3]
        # Frame 4 is the head's.
        if identity.kind in ("eeg", "seeg", "ecog") and int(ch["coord_frame"]) == 4 and np.isfinite(own).all() and own.any():
            place, frame, source = (float(own[0]), float(own[1]), float(own[2])), "head", "file"
        found.append(
            Channel(
                name=ch["ch_name"],
                canonical=identity.canonical,
                kind=identity.kind,
                unit=unit,
                si_factor=1.0 if unit == "V" else None,
                rate_hz=float(info["sfreq"]),
                position=place,
                position_frame=frame,
                position_source=source,
                reference=identity.reference,
                bad=ch["ch_name"] in info["bads"],
                dtype=dtype.name,
            )
        )
    return found


def mne_events(found: Any, first_time: float) -> list[Event]:
    """MNE's annotations as events; with a date they count from it, and the recording begins ``first_time`` later."""
    shift = first_time if found.orig_time is not None else 0.0
    extras = getattr(found, "extras", None) or [{}] * len(found)
    return [
        Event(float(onset) - shift, float(duration), str(label), tuple(names), dict(extra or {}))
        for onset, duration, label, names, extra in zip(
            found.onset, found.duration, found.description, found.ch_names, extras, strict=True
        )
    ]


class FifReader:
    """Raw FIF files; the further files of a split recording belong to the first."""

    name = "fif"
    domains: tuple[str, ...] = ("eeg", "cardiac")
    suffixes: tuple[str, ...] = (".fif", ".fif.gz")
    companions: tuple[str, ...] = ()
    copy_suffix: str | None = None

    def claims(self, path: Path, head: bytes) -> bool:
        """True: the suffix is no other format's, and a file that is damaged is reported with its reason."""
        return True

    def members(self, path: Path) -> Iterator[Path]:
        """The files that continue this one."""
        try:
            yield from (part.path for part in read_parts(path)[1:])
        except ReadError:
            return  # reported when the recording is opened

    def groups(self, paths: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
        """Every recording stands alone."""
        return ((path,) for path in paths)

    def open(self, path: Path, parts: Sequence[Path] = ()) -> Recording:
        """Open a recording. Raises ReadError."""
        return FifRecording(path)

    def write(self, recording: Recording, patches: Sequence[Patch], path: Path) -> Written:
        """Copy the recording's files and patch the stored numbers in the copies; every other byte stays.

        A value becomes value / calibration, rounded and limited for integers. The copy of a split recording keeps its
        name, which its files hold. Raises ReadError.
        """
        assert isinstance(recording, FifRecording)
        path = Path(path)
        if path.suffix.lower() != ".fif":
            raise ReadError(f"the copy of {recording.path.name} has to end in .fif, not become {path.name}")
        if len(recording.files) > 1 and path.name != recording.path.name:
            raise ReadError(f"the copy of {recording.path.name} has to keep its name: it is split over several files")
        try:
            with Scratch(recording.files) as scratch:
                targets = {source: path.with_name(source.name) for source in recording.files[1:]} | {recording.path: path}
                copies = {source: scratch.part(target, source) for source, target in targets.items()}
                tally = apply(recording, patches, copies)
                scratch.finish()
        except OSError as error:
            raise ReadError(f"the copy of {recording.path.name} cannot be written: {error.strerror or error}") from error
        return Written(path, tally.changed, tally.clipped, tally.notes)
