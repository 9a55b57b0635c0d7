"""Names of electrodes and other channels: the places agree with MNE's montage, cap labels never become electrodes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readers.electrodes import electrode, identify, on_head, places
from readers.leads import describe, lead_axis

TEN_TWENTY = ["Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz", "C4", "T8", "P7", "P3", "Pz", "P4", "P8", "O1", "O2"]


@pytest.fixture(scope="module")
def montage() -> dict[str, np.ndarray]:
    import mne
    from mne.channels.montage import transform_to_head

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            found = mne.channels.make_standard_montage("standard_1005")
        except ValueError:  # its name from MNE 1.14 on
            found = mne.channels.make_standard_montage("colin27_1005")
    return transform_to_head(found).get_positions()["ch_pos"]


def one(name: str, unit: str | None = "uV", among: tuple[str, ...] = ("Fz", "Pz"), hint: str | None = None):
    return identify([*among, name], ["uV"] * len(among) + [unit], [None] * len(among) + [hint])[-1]


def test_the_places_are_those_of_the_montage(montage):
    assert set(places()) == set(montage)
    for name, place in places().items():
        assert np.abs(np.array(place) - montage[name]).max() <= 1e-4


@pytest.mark.parametrize(
    ("name", "canonical", "reference"),
    [
        ("EEG C3-REF", "C3", "REF"),
        ("EEG Fp1-LE", "Fp1", "LE"),
        ("Fp1.", "Fp1", None),
        ("FP1", "Fp1", None),
        ("fp1", "Fp1", None),
        ("C3..", "C3", None),
        (" Cz ", "Cz", None),
        ("EEG-C3", "C3", None),
        ("EEGFpz", "Fpz", None),
        ("EEG C3-A2", "C3", "A2"),
        ("C3-M2", "C3", "M2"),
        ("C4M1", "C4", "M1"),
        ("EEG C3-A1A2", "C3", "A1A2"),
        ("POL O2", "O2", None),
        ("T3", "T7", None),
        ("T4", "T8", None),
        ("T5", "P7", None),
        ("EEG T6-REF", "P8", "REF"),
        ("AFp3h", "AFp3h", None),
        ("A1", "A1", None),
        ("M2", "M2", None),
    ],
)
def test_an_electrode_is_found_in_its_name(montage, name, canonical, reference):
    found = one(name)
    assert (found.canonical, found.kind, found.reference) == (canonical, "eeg", reference)
    assert np.allclose(found.position, montage[canonical], atol=1e-4)
    assert (found.position_frame, found.position_source) == ("head", "standard_1005")


@pytest.mark.parametrize(
    ("name", "canonical", "ends"),
    [
        ("F3-C3", "F3-C3", "F3 C3"),
        ("Fp1-F7", "Fp1-F7", "Fp1 F7"),
        ("EEG Fpz-Cz", "Fpz-Cz", "Fpz Cz"),
        ("T3-T5", "T7-P7", "T7 P7"),
        ("T8-P8-0", "T8-P8", "T8 P8"),
        ("EEG FP1 - F7", "Fp1-F7", "Fp1 F7"),
    ],
)
def test_a_pair_lies_in_the_middle(montage, name, canonical, ends):
    first, second = (montage[end] for end in ends.split())
    found = one(name)
    assert (found.canonical, found.reference) == (canonical, ends.split()[1])
    assert found.position_source == "standard_1005 (midpoint)"
    assert np.allclose(found.position, (first + second) / 2, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("EOG horizontal", "eog"), ("HEOG", "eog"), ("ROC", "eog"), ("E1-M2", "eog"), ("EEG LOC-REF", "eog"), ("EKG1", "ecg"),
        ("EEG EKG1-REF", "ecg"), ("ECG", "ecg"), ("ECG II", "ecg"), ("EMG submental", "emg"), ("Resp oro-nasal", "resp"),
        ("Airflow", "resp"), ("SaO2 SpO2", "misc"), ("Temp rectal", "temp"), ("PLETH", "ppg"), ("Status", "stim"),
        ("STI 014", "stim"), ("TRIG", "stim"), ("Event marker", "stim"), ("foo", "misc"), ("EEG foo", "eeg"), ("EEG 001", "eeg"),
    ],
)  # fmt: skip
def test_other_channels_have_their_kind_and_no_place_on_the_head(name, kind):
    found = one(name)
    assert found.kind == kind
    assert found.position_frame in (None, "lead-axis")


def test_a_unit_that_is_no_voltage_makes_no_electrode():
    assert one("P3", "mmHg").kind == "misc"
    assert one("P3", None).kind == "eeg"
    assert one("EEG P3", "mmHg").position is not None


def test_hints_decide_unless_the_name_says_more():
    assert one("X1", hint="eog").kind == "eog"
    assert one("Cz", hint="misc").kind == "misc"
    assert one("Cz", hint="misc").position is None
    assert one("anything", hint="eeg").kind == "eeg"
    assert one("VEOG", hint="eeg").kind == "eog"


def test_labels_of_a_biosemi_cap_are_no_electrodes():
    cap = [f"{letter}{n}" for letter in "ABCD" for n in range(1, 33)]
    names = [*cap, "EXG1", "Status"]
    found = identify(names, ["uV"] * len(names))
    assert all(i.kind == "eeg" and i.position is None and i.position_source is None for i in found[:128])
    assert [i.canonical for i in found[:128]] == cap
    assert found[-1].kind == "stim"
    # Prefixed, a few of them, and with the usual names of ears.
    assert all(i.position is None for i in identify(["1-A1", "1-A2", "1-B3"], ["uV"] * 3))
    assert all(i.position is None for i in identify(["A1", "A2", "A5", "B7", "C3"], ["uV"] * 5))


def test_labels_of_a_cap_in_another_unit_are_no_electrodes():
    names = [f"{letter}{n}" for letter in "ABC" for n in range(1, 33)]
    assert not any(i.position for i in identify(names, ["microV"] * 96, ["eeg"] * 96))


def test_what_a_program_puts_before_every_name_is_passed_over(montage):
    names = [f"Amplifier 2_{name}" for name in (*TEN_TWENTY, "ACC")]
    found = identify(names, ["uV"] * 20)
    assert [i.canonical for i in found[:19]] == TEN_TWENTY and found[-1].position is None
    assert [i.position is None for i in identify(["Fp1 x", "Fp1 y"], ["uV"] * 2)] == [False, False]


def test_labels_of_an_egi_net_are_no_electrodes():
    for count in (64, 128, 256):
        names = [f"E{n}" for n in range(1, count + 1)] + ["Cz"]
        assert all(i.kind == "eeg" and i.position is None for i in identify(names, ["uV"] * len(names)))


def test_ears_need_other_electrodes():
    assert all(i.position is None for i in identify(["A1", "A2"], ["uV"] * 2))
    assert all(i.position for i in identify(["A1", "A2", *TEN_TWENTY], ["uV"] * 21))


def test_a_cap_of_names_keeps_its_places_beside_a_few_labels():
    found = identify([*TEN_TWENTY, "B1", "B2", "E3"], ["uV"] * 22)
    assert all(i.position for i in found[:19]) and not any(i.position for i in found[19:])


def test_cardiac_channels_are_described_as_in_wfdb_records():
    names = ["I", "II", "aVR", "V1", "MLII", "X", "PLETH", "RESP", "ABP", "foo"]
    units = ["mV"] * 6 + ["NU", "Ohm", "mmHg", None]
    for name, unit, found in zip(names, units, identify(names, units), strict=True):
        canonical, kind = describe(name, unit)
        assert (found.canonical, found.kind) == (canonical, kind)
        assert found.position == (lead_axis(canonical) if kind == "ecg" else None)
        assert (found.position_frame == "lead-axis") == (found.position is not None)


def test_a_lead_among_electrodes_has_its_axis():
    found = one("ECG II")
    assert found.canonical == "II" and found.position == lead_axis("II") and found.position_source == "standard"


def test_a_sphere_is_laid_onto_the_head(montage):
    # A spherical drawing has the vertex on top, Fpz in front, T7 and T8 on the sides.
    for name, direction in {"Cz": (0, 0, 1), "Fpz": (0, 1, 0), "T7": (-1, 0, 0), "T8": (1, 0, 0), "Oz": (0, -1, 0)}.items():
        assert np.linalg.norm(np.array(on_head(direction)) - montage[name]) < 0.025


def test_real_names(shared, montage):
    raw = (shared / "eeg" / "Subject00_2.edf").read_bytes()[:8192]
    names = [raw[256 + 16 * k : 272 + 16 * k].decode() for k in range(int(raw[252:256]))]
    found = dict(zip([name.strip() for name in names], identify(names, ["uV"] * len(names)), strict=True))
    assert sum(i.position_source == "standard_1005" for i in found.values()) == 20
    assert np.allclose(found["EEG T5"].position, montage["P7"], atol=1e-4)
    assert (found["EEG A2-A1"].canonical, found["EEG A2-A1"].reference) == ("A2", "A1")
    assert (found["ECG ECG"].kind, found["EDF Annotations"].kind) == ("ecg", "stim")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=20), max_size=8))
def test_any_names_are_taken(names):
    found = identify(names, [None] * len(names))
    assert len(found) == len(names)
    for identity in found:
        assert (identity.position is None) == (identity.position_source is None) == (identity.position_frame is None)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(sorted(places())),
    st.sampled_from(["", "EEG ", "eeg ", "POL "]),
    st.sampled_from(["", ".", " ", "-REF", "-LE"]),
)
def test_every_place_is_found_however_it_is_written(name, before, after):
    modern = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}.get(name, name)
    for written in (name, name.upper(), name.lower()):
        found = one(before + written + after)
        assert (found.canonical, found.position) == (modern, places()[modern])
    assert electrode(name) == modern
