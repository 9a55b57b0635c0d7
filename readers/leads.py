"""What the name of a cardiac channel says: its canonical name, its kind, and the axis of a standard lead."""

from __future__ import annotations

import math
import re
from functools import lru_cache

_AFFIXES = ("ecg", "ekg", "lead")
_LEADS = {
    name.lower(): name
    for name in (
        *("I", "II", "III", "aVR", "aVL", "aVF", "V"),
        *(f"V{n}" for n in range(1, 10)),
        *("V3R", "V4R", "V5R", "V6R"),
        *("MLI", "MLII", "MLIII"),
        *(f"MV{n}" for n in range(1, 7)),
        *(f"MCL{n}" for n in range(1, 7)),
        *("VX", "VY", "VZ"),
    )
} | {"di": "I", "dii": "II", "diii": "III"}
_FRANK = {"x": "VX", "y": "VY", "z": "VZ"}
# First halves of a lead name written in two words ("V 1", "aV_R", "ML II"). Nothing else is joined:
# "I-II" is a bipolar derivation, not lead III.
_JOINED = ("v", "av", "a", "ml", "mv", "mcl")

_PPG = re.compile(r"p?pleth\w*|ppg\w*|bvp\d*", re.ASCII)
# The light of a photoplethysmogram, also glued to what it is ("ppgred", "redled").
_LIGHT = re.compile(r"(?:p?pleth|ppg|led)?(red|ir|infrared|green)(?:led|ppg)?\d*", re.ASCII)
_LIGHTS = {"red": "PPG red", "ir": "PPG infrared", "infrared": "PPG infrared", "green": "PPG green"}
_OTHERS = (
    ("resp", "RESP", re.compile(r"resp\w*", re.ASCII)),
    ("abp", "ABP", re.compile(r"(?:i?abp|ao?bp|art|bp)\d*", re.ASCII)),
    ("spo2", "SpO2", re.compile(r"%?s[pa]o2\w*%?", re.ASCII)),
    ("acc", None, re.compile(r"acc\w*", re.ASCII)),
    ("eeg", None, re.compile(r"eeg\w*", re.ASCII)),
    ("eog", None, re.compile(r"eog\w*", re.ASCII)),
    ("emg", None, re.compile(r"emg\w*", re.ASCII)),
)
_NOT_LIGHT = tuple(pattern for kind, _, pattern in _OTHERS if kind != "spo2")
_ECG = re.compile(r"(?:ecg|ekg)\w*", re.ASCII)
_VOLTS = {"v": 1.0, "mv": 1e-3, "uv": 1e-6, "µv": 1e-6, "μv": 1e-6, "nv": 1e-9}

# Degrees clockwise from the left side of the patient, towards the feet.
_FRONTAL = {"I": 0, "II": 60, "aVF": 90, "III": 120, "aVR": -150, "aVL": -30, "MLI": 0, "MLII": 60, "MLIII": 120}
# Degrees from the left side of the patient, towards the front.
_TRANSVERSE = {"V1": 115, "V2": 94, "V3": 58, "V4": 47, "V5": 22, "V6": 0}
_FRANK_AXES = {"VX": (1.0, 0.0, 0.0), "VY": (0.0, 1.0, 0.0), "VZ": (0.0, 0.0, 1.0)}


def si_factor(unit: str | None) -> float | None:
    """What turns the unit into volts; None for a unit that is no voltage (``NU``, ``g``, ``mmHg``).

    Case is ignored: nobody records megavolts.
    """
    return _VOLTS.get(unit.lower()) if unit else None


@lru_cache(maxsize=1024)  # the same dozen names come back in every record
def describe(name: str, unit: str | None) -> tuple[str, str]:
    """Canonical name and kind of a channel, from its name and, for an unknown name, from its unit.

    Kinds: ``ecg``, ``ppg``, ``resp``, ``abp``, ``spo2``, ``acc``, ``eeg``, ``eog``, ``emg``, ``other``. PPG keeps
    its light where the name says it: ``PPG``, ``PPG red``, ``PPG infrared``, ``PPG green``. A name that is not
    known is kept as written.
    """
    is_volts = si_factor(unit) is not None
    words = [word for word in re.split(r"[\s_-]+", name.strip().lower()) if word]
    lead = _lead(name, words, is_volts)
    if lead is not None:
        return lead, "ecg"
    light = _light(name)
    if any(_PPG.fullmatch(word) for word in words):
        return light or "PPG", "ppg"
    named = bool(words) and any(pattern.fullmatch(words[0]) for pattern in (_ECG, *_NOT_LIGHT))
    if light and not named:
        return light, "ppg"
    for kind, canonical, pattern in _OTHERS:
        if words and pattern.fullmatch(words[0]):
            return canonical or name.strip().upper(), kind
    if any(_ECG.fullmatch(word) for word in words) or is_volts:
        return name.strip(), "ecg"
    return name.strip(), "other"


def lead_axis(canonical: str) -> tuple[float, float, float] | None:
    """Unit vector in which a standard ECG lead looks: x left, y feet, z back; None for any other channel.

    Limb leads: the hexaxial reference system (aVL -30, I 0, II 60, aVF 90, III 120, aVR -150 degrees in
    the frontal plane). Precordial leads: the horizontal-plane reference angles of electrocardiography
    textbooks (V1 115, V2 94, V3 58, V4 47, V5 22, V6 0 degrees). Frank leads: the orthogonal axes of
    Frank E, Circulation 1956; 13:737-749. Planes and lead vectors: Malmivuo J, Plonsey R,
    Bioelectromagnetism, Oxford University Press 1995, chapters 15 and 16. Modified leads (MLII, MV1,
    MCL1) look as the leads that they imitate. These are the model's axes, not the patient's.
    """
    if canonical in _FRANK_AXES:
        return _FRANK_AXES[canonical]
    if canonical in _FRONTAL:
        angle = math.radians(_FRONTAL[canonical])
        return math.cos(angle), math.sin(angle), 0.0
    angle_deg = _TRANSVERSE.get(re.sub(r"^(?:MV|MCL)(?=\d)", "V", canonical))
    if angle_deg is None:
        return None
    return math.cos(math.radians(angle_deg)), 0.0, -math.sin(math.radians(angle_deg))


def _light(name: str) -> str | None:
    """The canonical name of a PPG of the light that a name states; None where it states none."""
    words = re.split(r"[\W_]+", re.sub(r"infra[\W_]*red", "infrared", name.lower()))
    return next((_LIGHTS[match[1]] for word in words if (match := _LIGHT.fullmatch(word))), None)


def _lead(name: str, words: list[str], is_volts: bool) -> str | None:
    if name.strip().startswith(("-", "_")):
        return None  # "-aVR" is aVR turned round, not aVR
    rest = list(words)
    while len(rest) > 1 and rest[0] in _AFFIXES:
        rest.pop(0)
    if len(rest) == 2 and rest[0] in _JOINED:
        rest = ["".join(rest)]
    if len(rest) != 1:
        return None
    return _LEADS.get(rest[0]) or (_FRANK.get(rest[0]) if is_volts else None)
