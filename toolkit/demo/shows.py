"""What ``toolkit demo`` shows of each domain: its recordings, its recipe, and what it repairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.demo import birds, cardiac, eeg, mri, points


@dataclass(frozen=True)
class Repair:
    """One ``restore``: a recording below the data folder, the options, and what its picture shows."""

    recording: str
    options: tuple[str, ...]
    shows: str


@dataclass(frozen=True)
class Show:
    """One domain. ``generate(folder, number)`` writes recordings of so many subjects or scenes, and returns the labels.

    With fewer than ``least`` there is nothing to compare between groups.
    """

    what: str
    generate: Callable[[Path, int], Path]
    number: int
    recipe: str
    steps: int
    settings: tuple[str, ...]
    group: str
    repairs: Sequence[Repair]
    target: str = "label"
    task: str = "auto"  # of the probe
    least: int = 3


# Steps and rates are what two minutes on two cores allow.
SHOWS: dict[str, Show] = {
    "cardiac": Show(
        what="ECG and PPG of {} synthetic subjects (WFDB)",
        generate=lambda folder, number: cardiac.generate(folder, subjects=number),
        number=8,
        recipe="csfm",
        steps=400,
        settings=("data.most_channels=2", "optimizer.learning_rate=2e-3"),
        group="subject",
        repairs=(
            Repair("s03_ectopic.hea", ("--damage", "block:0.15"), "gaps filled"),
            Repair("s01_sinus.hea", ("--channels", "aVF,V5", "--reference", "{}"), "leads rebuilt"),
        ),
    ),
    "eeg": Show(
        what="EEG of {} synthetic subjects, eyes open and closed (EDF+)",
        generate=lambda folder, number: eeg.generate(folder, subjects=number),
        number=8,
        recipe="reve",
        steps=250,
        settings=("data.most_channels=8", "optimizer.learning_rate=2e-3", "training.batch_size=16"),
        group="subject",
        repairs=(
            Repair("s01_closed.edf", ("--damage", "block:0.15"), "gaps filled"),
            Repair("s02_closed.edf", ("--channels", "O1,Pz", "--reference", "{}"), "electrodes rebuilt"),
        ),
    ),
    "mri": Show(
        what="T1w, T2w and PDw heads of {} synthetic subjects, some with lesions (NIfTI)",
        generate=lambda folder, number: mri.generate(folder, subjects=number),
        number=16,
        recipe="bm-mae",
        steps=200,
        settings=("optimizer.learning_rate=2e-3", "training.batch_size=4"),
        group="subject",
        target="ventricle_ml",  # lesions are too small for a grid of 4 mm
        task="regression",
        repairs=(Repair("sub-01/anat", ("--damage", "block:0.1"), "boxes filled"),),
    ),
    "birds": Show(
        what="{} recordings of four invented birds (WAV, Raven tables)",
        generate=lambda folder, number: birds.generate(folder, recordings=number),
        number=24,
        recipe="bird-mae",
        steps=150,
        settings=("optimizer.learning_rate=2e-3", "training.batch_size=8"),
        group="recordist",
        least=6,
        repairs=(Repair("r001_bellfinch.wav", ("--damage", "block:0.1"), "gaps filled"),),
    ),
    "points": Show(
        what="solids in {} scenes, as a laser scanner sees them (PLY)",
        generate=lambda folder, number: points.generate(folder, scenes=number),
        number=10,
        recipe="point-cmae",
        steps=300,
        settings=("training.batch_size=16",),
        group="scene",
        repairs=(Repair("scene01_ball.ply", ("--damage", "block:0.15"), "holes filled"),),
    ),
}
