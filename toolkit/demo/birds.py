"""Synthetic field recordings of invented bird species by several recordists, with labels and selection tables.

Times are in seconds, frequencies in Hz, distances in m.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import signal

from toolkit.demo import outdoors
from toolkit.demo.labels import write_labels
from toolkit.demo.outdoors import RATE_HZ, FloatArray, Place, Syllable
from toolkit.errors import UsageError

SHORTEST_S = 3.0
RECORDISTS = 6
# Columns of a Raven selection table, tab separated.
RAVEN = ("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)", "Annotation")


@dataclass(frozen=True)
class Species:
    """A song: syllables, what follows what, and its tempo."""

    syllables: dict[str, Syllable]
    grammar: dict[str, tuple[tuple[str, float], ...]]  # what follows a syllable, with its probability; "" ends the song
    first: str
    gap_s: float  # between syllables
    pause_s: float  # between songs
    most: int  # syllables of a song


SPECIES = {
    "bellfinch": Species(  # pure whistles, slow, falling at the end
        {
            "high": Syllable((4300, 4350, 4300), 0.22, (1.0, 0.08)),
            "step": Syllable((3500, 3450), 0.18, (1.0, 0.08)),
            "fall": Syllable((3900, 3300, 2600), 0.40, (1.0, 0.12)),
        },
        {
            "high": (("high", 0.45), ("step", 0.55)),
            "step": (("high", 0.4), ("step", 0.2), ("fall", 0.4)),
            "fall": (("", 1.0),),
        },
        "high",
        gap_s=0.11,
        pause_s=1.6,
        most=9,
    ),
    "reelwarbler": Species(  # a fast reel of one chirp, with a flourish
        {
            "tick": Syllable((5200, 6600, 5600), 0.035, (1.0, 0.15), level=0.7),
            "flourish": Syllable((4200, 6800, 3600, 5200), 0.30, (1.0, 0.15)),
        },
        {"tick": (("tick", 0.95), ("flourish", 0.05)), "flourish": (("tick", 0.3), ("", 0.7))},
        "tick",
        gap_s=0.022,
        pause_s=1.3,
        most=46,
    ),
    "rasp_tit": Species(  # harsh calls with many harmonics, after a thin introduction
        {
            "thin": Syllable((7000, 7400), 0.09, (1.0,), level=0.6),
            "rasp": Syllable((1900, 2050, 1850), 0.24, (0.5, 1.0, 0.9, 0.6, 0.35, 0.2), 75.0, 0.85),
            "chip": Syllable((3000, 5200), 0.05, (1.0, 0.5, 0.25)),
        },
        {
            "thin": (("thin", 0.45), ("rasp", 0.55)),
            "rasp": (("rasp", 0.62), ("chip", 0.12), ("", 0.26)),
            "chip": (("rasp", 0.6), ("", 0.4)),
        },
        "thin",
        gap_s=0.06,
        pause_s=1.5,
        most=9,
    ),
    "swoop_thrush": Species(  # wide sweeps and flutes in varied order
        {
            "up": Syllable((1500, 1900, 4200), 0.26, (1.0, 0.35, 0.12)),
            "down": Syllable((5200, 2600, 1800), 0.24, (1.0, 0.3, 0.1)),
            "flute": Syllable((2300, 2350, 2250, 2300), 0.34, (1.0, 0.3), 24.0, 0.5),
            "wave": Syllable((2600, 3600, 2500, 3700, 2600), 0.36, (1.0, 0.25)),
        },
        {
            "up": (("down", 0.5), ("flute", 0.3), ("up", 0.2)),
            "down": (("flute", 0.3), ("wave", 0.4), ("", 0.3)),
            "flute": (("up", 0.3), ("wave", 0.4), ("", 0.3)),
            "wave": (("up", 0.4), ("down", 0.3), ("", 0.3)),
        },
        "up",
        gap_s=0.09,
        pause_s=1.4,
        most=8,
    ),
}


@dataclass(frozen=True)
class Bird:
    """One singing individual."""

    species: str
    pitch: float  # factor on all frequencies
    tempo: float  # factor on all times between syllables
    metres: float


@dataclass(frozen=True)
class Selection:
    """Where a syllable lies in a recording: seconds, and Hz of the fundamental and its strong harmonics."""

    start: float
    stop: float
    low: float
    high: float
    label: str


def draw_song(species: Species, tempo: float, rng: np.random.Generator) -> list[tuple[float, str]]:
    """(onset, syllable) of one song from 0 s on, by the species' grammar."""
    song: list[tuple[float, str]] = []
    now, name = 0.0, species.first
    while name and len(song) < species.most:
        song.append((now, name))
        now += species.syllables[name].seconds + tempo * species.gap_s * rng.uniform(0.85, 1.15)
        following, chances = zip(*species.grammar[name], strict=True)
        name = str(rng.choice(following, p=chances))
    return song


def draw_bout(bird: Bird, start: float, seconds: float, rng: np.random.Generator) -> list[tuple[float, str]]:
    """(onset, syllable) of song after song from ``start`` on, as far as they fit into ``seconds`` whole."""
    species = SPECIES[bird.species]
    bout: list[tuple[float, str]] = []
    now = start
    while now < seconds:
        for onset, name in draw_song(species, bird.tempo, rng):
            if now + onset + species.syllables[name].seconds < seconds:
                bout.append((now + onset, name))
        last = bout[-1][0] + species.syllables[bout[-1][1]].seconds if bout else now
        now = max(last, now + 0.1) + bird.tempo * species.pause_s * rng.uniform(0.6, 1.5)
    return bout


def selection(bird: Bird, name: str, onset: float) -> Selection:
    """The box of one syllable; harmonics under a fifth of the strongest do not count."""
    syllable = SPECIES[bird.species].syllables[name]
    strong = [k for k, a in enumerate(syllable.harmonics, 1) if a >= 0.2 * max(syllable.harmonics)]
    low = bird.pitch * min(syllable.contour) * strong[0]
    high = min(bird.pitch * max(syllable.contour) * strong[-1], 0.45 * RATE_HZ)
    return Selection(onset, onset + syllable.seconds, 0.95 * low, 1.05 * high, bird.species)


def at_microphone(
    bird: Bird, bout: Sequence[tuple[float, str]], samples: int, place: Place, rng: np.random.Generator
) -> FloatArray:
    """What reaches the microphone (T,) of one bird's bout: attenuated, dulled, with echoes; the delay is left out."""
    syllables = SPECIES[bird.species].syllables
    sung = {name: outdoors.sing(syllable, bird.pitch) for name, syllable in syllables.items()}
    dry = outdoors.mix(samples, [(onset, rng.uniform(0.8, 1.1) * sung[name]) for onset, name in bout])
    return outdoors.reverberant(outdoors.travel(dry, bird.metres), bird.metres, place.decay_s, rng)


def simulate(species: str, place: Place, seconds: float, rng: np.random.Generator) -> tuple[FloatArray, list[Selection]]:
    """One recording (T,) of a species within -1 to 1, and every syllable in it in order of onset.

    The nearest bird sings all the time; in every second recording another of its species answers from farther off.
    """
    samples = round(seconds * RATE_HZ)
    near = rng.uniform(5, 28)
    birds = [Bird(species, rng.normal(1, 0.03), rng.normal(1, 0.06), near)]
    if rng.random() < 0.5:
        birds.append(Bird(species, rng.normal(1, 0.03), rng.normal(1, 0.06), near * rng.uniform(1.6, 3.0)))
    sound = outdoors.surroundings(samples, place, rng)
    boxes = []
    for bird in birds:
        bout = draw_bout(bird, rng.uniform(0.1, 0.9), seconds, rng)
        sound += at_microphone(bird, bout, samples, place, rng)
        boxes += [selection(bird, name, onset) for onset, name in bout]
    recorder = signal.butter(2, place.low_cut_hz, "highpass", fs=RATE_HZ, output="sos")
    heard = signal.sosfilt(recorder, sound)
    return np.asarray(place.peak * heard / np.abs(heard).max()), sorted(boxes, key=lambda box: box.start)


def write_recording(path: Path, sound: FloatArray) -> Path:
    """Write a recording within -1 to 1 as 16-bit WAV; returns its path."""
    from readers.audio_write import create_wav  # here, so that the simulation alone needs no file format

    return create_wav(path, sound[:, None], RATE_HZ)


def write_selections(path: Path, selections: Sequence[Selection]) -> Path:
    """Write the selection table of a recording as Raven names and reads it; returns its path."""
    table = path.with_name(f"{path.stem}.Table.1.selections.txt")
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(RAVEN)
        for number, box in enumerate(selections, start=1):
            corners = (f"{box.start:.4f}", f"{box.stop:.4f}", f"{box.low:.1f}", f"{box.high:.1f}")
            writer.writerow((number, "Spectrogram 1", 1, *corners, box.label))
    return table


def generate(folder: Path, *, recordings: int = 24, seconds: float = 12.0, seed: int = 0) -> Path:
    """Write recordings of every species by every recordist to ``folder`` and return the path of ``labels.csv``.

    The labels have one row per recording (``path,label,recordist``); beside each recording stands its selection
    table. The same seed gives the same files, and asking for more recordings leaves the earlier ones as they are.
    """
    if recordings < 1 or seconds < SHORTEST_S:
        raise UsageError(f"A demo needs at least one recording of {SHORTEST_S:g} s: got {recordings} of {seconds:g} s.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(recordings):
        label = list(SPECIES)[index % len(SPECIES)]
        who = index // len(SPECIES) % RECORDISTS
        place = outdoors.draw_place(np.random.default_rng([seed, who, 1]))
        sound, selections = simulate(label, place, seconds, np.random.default_rng([seed, index, 2]))
        path = write_recording(folder / f"r{index + 1:03d}_{label}.wav", sound)
        write_selections(path, selections)
        rows.append((path.name, label, f"recordist{who + 1}"))
    return write_labels(folder, ("path", "label", "recordist"), rows)
