"""What the names of a recording's channels say: electrodes and their places, other signals, and references."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from readers.leads import describe, lead_axis, si_factor

Position = tuple[float, float, float]

MONTAGE = "standard_1005"
# The sphere that fits the montage's scalp electrodes best (mean distance 4 mm): centre and radius in metres.
_SPHERE = ((0.0, 0.015, 0.040), 0.098)
_MODERN = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
_EARS = ("A1", "A2", "M1", "M2")
# Electrodes that are in use but have no place in the montage.
_PLACELESS = {name.lower(): name for name in ("CB1", "CB2", "SP1", "SP2", "PG1", "PG2", "T1", "T2", "Nz")}
# Second halves of a name that are a reference, not an electrode of a pair.
_REFERENCES = re.compile(r"ref\d?|le|ler|lm|av|avg|ave|ar|car|cle|gnd|g\d?|org|cref|vref|(?:a1\+?a2|m1\+?m2)(?:/2)?", re.I)
_NO_UNIT = ("", "n/a", "na", "au", "a.u.", "arbitrary", "nu", "adc", "ad")

# Signal types of the EDF+ standard texts, and the usual variants.
_PREFIXES = {
    "eeg": "eeg", "pol": None, "eog": "eog", "ecg": "ecg", "ekg": "ecg", "emg": "emg", "resp": "resp", "temp": "temp",
    "sao2": "misc", "spo2": "misc", "light": "misc", "sound": "misc", "erg": "misc", "meg": "meg", "mcg": "misc",
    "ep": "eeg", "event": "stim", "misc": "misc", "ppg": "ppg", "pleth": "ppg",
}  # fmt: skip
_PREFIX = re.compile(rf"({'|'.join(_PREFIXES)})(?:[\s_:.-]+(?=\S)|$)", re.I)
_KINDS = (
    ("stim", re.compile(r"status|sti\s?\d+|trig\w*|stim\w*|marker\w*|events?|di[no]\d*|edf annotations", re.I)),
    # E1 and E2 alone are the eye electrodes of sleep recordings.
    ("eog", re.compile(r"[hv]?eog.*|[lr]oc|[lr]?[hv]?eye.*|eog[hvlr]?.*|e[12]", re.I)),
    ("ecg", re.compile(r"(?:ecg|ekg)\W?\w*(?:[\s-]\w+)*", re.I)),
    ("emg", re.compile(r"emg.*|chin.*|[lr]?leg\d*|[lr]at\d?|tib.*|masseter.*", re.I)),
    ("resp", re.compile(r"resp.*|(?:air)?flow.*|thor.*|abdo.*|nasal.*|effort.*|snor.*|cannula.*", re.I)),
    ("temp", re.compile(r"temp.*|(?:rectal|skin|body)[ _]?temp\w*", re.I)),
    ("misc", re.compile(r"s[pa]o2.*|osat.*|hr|pr|pulse(?: ?rate)?|acc\w*|gyr\w*|gsr|eda|bat\w*|photic", re.I)),
)
_CAP = re.compile(r"(?:\d-)?([A-H])([1-9]|[12]\d|3[0-2])")
_EGI = re.compile(r"E(\d{1,3})", re.I)


@dataclass(frozen=True)
class Identity:
    """What a channel is; the fields are those of ``schema.Channel``."""

    canonical: str
    kind: str
    reference: str | None = None
    position: Position | None = None
    position_frame: str | None = None
    position_source: str | None = None


@lru_cache(maxsize=1)
def places() -> Mapping[str, Position]:
    """Electrode name -> (x, y, z) in metres, head frame: x to the right, y to the nose, z up.

    The 343 places of MNE's ``standard_1005`` (``colin27_1005`` from MNE 1.13 on), put into the head frame by
    ``mne.channels.montage.transform_to_head``: the rigid transformation in which the montage's LPA and RPA lie
    on the x axis and its nasion on the y axis. Rounded to 0.1 mm.
    """
    rows = (files("readers") / "electrodes.csv").read_text("utf-8").split()[1:]
    table = {}
    for row in rows:
        name, x, y, z = row.split(",")
        table[name] = (float(x), float(y), float(z))
    return table


@lru_cache(maxsize=1)
def _names() -> Mapping[str, str]:
    """Electrode names by their lower-case spelling, older names leading to the modern ones."""
    return {name.lower(): _MODERN.get(name, name) for name in places()}


def identify(names: Sequence[str], units: Sequence[str | None], hints: Sequence[str | None] = ()) -> list[Identity]:
    """What each channel is, from its name, its unit and the kind that the file gives it (``hints``, None: says nothing).

    All names are judged together: ``A1`` is an earlobe among 10-20 names, and a scalp electrode of unknown place in
    a BioSemi cap. Cap labels (BioSemi A1..H32, EGI E1..E256) never get a place. The kind is a hint, ``eeg``, ``eog``,
    ``ecg``, ``emg``, ``resp``, ``ppg``, ``temp``, ``stim``, ``meg`` or ``misc``; in a recording without any electrode but
    with ECG leads or PPG it is that of ``leads.describe``. A pair of electrodes lies at the middle between them, its
    reference is the second.
    """
    hints = [hint.strip().lower() if hint else None for hint in hints] or [None] * len(names)
    shared = _shared(names)
    parsed = [_parse(name[shared:]) for name in names]
    family = _family([rest for _, rest in parsed])
    found = []
    for name, unit, hint, (prefix, rest) in zip(names, units, hints, parsed, strict=True):
        found.append(_one(name, unit, hint, prefix, rest, family))
    if _cardiac(names, found):
        return [_lead(name, unit, old) for name, unit, old in zip(names, units, found, strict=True)]
    return found


def electrode(name: str) -> str | None:
    """The modern name of a single electrode of the 10-20, 10-10 and 10-5 systems, or None."""
    return _names().get(re.sub(r"\s", "", name.strip().strip(".")).lower())


def on_head(direction: Position) -> Position:
    """Where a unit vector from the middle of a spherical head (x right, y nose, z up) meets the montage's head."""
    (x, y, z), radius = _SPHERE
    return x + radius * direction[0], y + radius * direction[1], z + radius * direction[2]


def _parse(name: str) -> tuple[str | None, str]:
    """The signal-type prefix, in lower case, and what follows it."""
    text = " ".join(name.replace("\0", " ").split()).strip(". ")
    match = _PREFIX.match(text)
    if match:
        return match[1].lower(), text[match.end() :].strip(". ")
    if text.lower().startswith("eeg") and electrode(text[3:]):
        return "eeg", text[3:]
    return None, text


def _shared(names: Sequence[str]) -> int:
    """Length of a beginning that all names share and that hides electrodes, as an acquisition program puts it there."""
    first, last = (find(name.strip() for name in names) if names else "" for find in (min, max))
    same = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    start = first[:same]
    length = max(start.rfind(mark) for mark in " _:./") + 1
    if len(names) < 2 or not length or any(_ends(_parse(name)[1])[0] for name in names):
        return 0
    return length if 2 * sum(bool(electrode(name.strip()[length:])) for name in names) >= len(names) else 0


def _family(rests: Sequence[str]) -> str | None:
    """``biosemi`` or ``egi`` where most names are labels of such a cap; ``1020`` where some are electrode names."""
    egi = [int(match[1]) for rest in rests if (match := _EGI.fullmatch(rest))]
    # Labels that are no 10-20 names, against names that are no cap labels.
    alien = [rest for rest in rests if _CAP.fullmatch(rest) and rest not in _EARS and rest[0] != "E" and not electrode(rest)]
    plain = [rest for rest in rests if _ends(rest)[0] and not _CAP.fullmatch(rest)]
    if len(egi) >= 2 and max(egi) > 2 and len(egi) > len(plain):
        many_letters = {rest[0] for rest in rests if _CAP.fullmatch(rest)} > {"E"}
        return "biosemi" if many_letters and len(alien) > len(egi) else "egi"
    if len(alien) >= 2 and len(alien) > len(plain):
        return "biosemi"
    known = [rest for rest in rests if (first := _ends(rest)[0]) and first not in _EARS]
    return "1020" if known else None


def _ends(rest: str) -> tuple[str | None, str | None]:
    """The electrode and what it is measured against: another electrode's modern name, or the text as written."""
    whole = electrode(rest)
    if whole:
        return whole, None
    compact = re.sub(r"\s*([-–_/:])\s*", r"\1", rest)
    parts = [part for part in re.split(r"[-–_/:]|\s", compact, maxsplit=1) if part]
    if len(parts) == 2:
        first, second = electrode(parts[0]), re.sub(r"-\d$", "", parts[1])
        if first and second:
            return first, electrode(second) or second.strip(". ")
    joined = re.fullmatch(r"([A-Za-z]+(?:\d{1,2}|[zZ])[hH]?)([AaMm][12])", rest)
    if joined and (first := electrode(joined[1])):
        return first, joined[2].upper()
    return None, None


def _one(name: str, unit: str | None, hint: str | None, prefix: str | None, rest: str, family: str | None) -> Identity:
    said = _PREFIXES[prefix] if prefix else None
    text = rest or name.strip()
    electric = si_factor(unit) is not None or unit is None or unit.strip().lower() in _NO_UNIT
    scalp = said in (None, "eeg") and hint in (None, "eeg") and (electric or bool(said or hint))
    if family in ("biosemi", "egi") and scalp:
        if _CAP.fullmatch(text) or _EGI.fullmatch(text):
            return Identity(text, "eeg")
        if electrode(text):  # the vertex of an EGI cap; a lone C3 beside BioSemi labels
            return Identity(electrode(text) or text, "eeg")
    first, second = _ends(rest)
    if first and scalp:
        if first not in _EARS or family == "1020":
            return _placed(first, second, family)
        return Identity(text, "eeg")
    core, reference = _without_reference(text)
    kind = _kind(name, core, said, hint, electric)
    if kind in ("ecg", "ppg"):
        return _lead(name if said != "eeg" else core, unit, Identity(core, kind, reference))
    if kind != "eeg" or core.isdigit():
        return Identity(name.strip(". ") if said != "eeg" or core.isdigit() else core, kind, reference)
    return Identity(_PLACELESS.get(core.lower(), core), kind, reference)


def _without_reference(text: str) -> tuple[str, str | None]:
    """A name that is no electrode without its reference: ``31-REF`` is 31 against REF."""
    head, dash, tail = text.rpartition("-")
    if head and dash and (_REFERENCES.fullmatch(tail) or tail.upper() in _EARS):
        return head.strip(), tail.upper()
    return text, None


def _placed(first: str, second: str | None, family: str | None) -> Identity:
    """An electrode with a place; ``second`` is the other end of a pair, or a reference."""
    table = places()
    ends = second in table and second not in _EARS
    if second is None or not ends:
        words = second and _REFERENCES.fullmatch(second)
        return Identity(first, "eeg", second.upper() if second and words else second, table[first], "head", MONTAGE)
    assert second is not None
    (ax, ay, az), (bx, by, bz) = table[first], table[second]
    middle = ((ax + bx) / 2, (ay + by) / 2, (az + bz) / 2)
    return Identity(f"{first}-{second}", "eeg", second, middle, "head", f"{MONTAGE} (midpoint)")


def _kind(name: str, rest: str, said: str | None, hint: str | None, electric: bool) -> str:
    """The kind of a channel that is no electrode of the montage."""
    texts = [rest] if said == "eeg" else [" ".join(name.split()).strip(". "), rest]
    by_text = next((kind for kind, pattern in _KINDS if any(pattern.fullmatch(text) for text in texts)), None)
    # "EEG EKG1-REF" is an electrocardiogram that a program named like its other inputs.
    by_name = by_text if said in (None, "eeg") and by_text else said
    if by_name is None and describe(rest, None)[1] in ("ecg", "ppg", "emg", "eog", "resp"):
        by_name = describe(rest, None)[1]
    if by_name is None and electric and (rest.lower() in _PLACELESS or _CAP.fullmatch(rest)):
        by_name = "eeg"
    # Many programs call every channel EEG for want of a better word; a name that says more is believed.
    if hint and not (hint == "eeg" and by_name not in (None, "eeg", "misc")):
        return hint
    return by_name or "misc"


def _cardiac(names: Sequence[str], found: Sequence[Identity]) -> bool:
    """Whether these are ECG leads or PPG, and what is recorded with them, without a single electrode of EEG."""
    kinds = {identity.kind for identity in found}
    leads = any(describe(name, None)[1] in ("ecg", "ppg") for name in names)
    return leads and bool(kinds & {"ecg", "ppg"}) and not kinds & {"eeg", "eog", "emg", "meg", "temp"}


def _lead(name: str, unit: str | None, old: Identity) -> Identity:
    """An ECG lead, PPG or a signal recorded with them, described as WFDB records are."""
    canonical, kind = describe(name, unit)
    if old.kind == "stim" or (old.kind in ("ecg", "ppg") and kind != old.kind):
        return old
    axis = lead_axis(canonical) if kind == "ecg" else None
    frame, source = ("lead-axis", "standard") if axis else (None, None)
    return Identity(canonical, kind, None, axis, frame, source)
