from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from readers.leads import describe, lead_axis, si_factor

LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", *(f"V{n}" for n in range(1, 7)), "MLII", "MLI", "MLIII", "MV1"]


@given(
    lead=st.sampled_from(LEADS),
    prefix=st.sampled_from(["", "ECG ", "EKG ", "lead ", "ECG_", "ecg-", "ECG lead ", "Lead_"]),
    case=st.sampled_from([str, str.upper, str.lower]),
    spaces=st.sampled_from(["", " "]),
    unit=st.sampled_from(["mV", "NU", None]),
)
def test_a_lead_is_known_however_it_is_written(lead, prefix, case, spaces, unit):
    assert describe(spaces + case(prefix + lead) + spaces, unit) == (lead, "ecg")


@pytest.mark.parametrize(
    ("name", "unit", "expected"),
    [
        ("vx", "mV", ("VX", "ecg")),
        ("X", "mV", ("VX", "ecg")),
        ("X", "g", ("X", "other")),
        ("V", "mV", ("V", "ecg")),
        ("V 1", "mV", ("V1", "ecg")),
        ("aV-R", "mV", ("aVR", "ecg")),
        ("DII", "mV", ("II", "ecg")),
        ("MCL1", "mV", ("MCL1", "ecg")),
        ("ECG", "NU", ("ECG", "ecg")),
        ("ECG1", "NU", ("ECG1", "ecg")),
        ("EKG", "mV", ("EKG", "ecg")),
        ("ECG lead 1", "NU", ("ECG lead 1", "ecg")),
        ("PLETH", "NU", ("PPG", "ppg")),
        ("Pleth (red)", "NU", ("PPG red", "ppg")),
        ("PPG_RED", "NU", ("PPG red", "ppg")),
        ("RED", "NU", ("PPG red", "ppg")),
        ("Red LED", "NU", ("PPG red", "ppg")),
        ("ppgRed1", "NU", ("PPG red", "ppg")),
        ("PPG-IR", "mV", ("PPG infrared", "ppg")),
        ("Infra-Red", "NU", ("PPG infrared", "ppg")),
        ("PPG infrared", None, ("PPG infrared", "ppg")),
        ("SpO2 IR", "NU", ("PPG infrared", "ppg")),
        ("PPG green", "NU", ("PPG green", "ppg")),
        ("green_led_2", "NU", ("PPG green", "ppg")),
        ("Pleth", "NU", ("PPG", "ppg")),
        ("PLETHR", "NU", ("PPG", "ppg")),
        ("BVP", "NU", ("PPG", "ppg")),
        ("ECG red", "mV", ("ECG red", "ecg")),
        ("RESP green", "NU", ("RESP", "resp")),
        ("SpO2", "%", ("SpO2", "spo2")),
        ("%SpO2", None, ("SpO2", "spo2")),
        ("SaO2", "%", ("SpO2", "spo2")),
        ("Reduced", "NU", ("Reduced", "other")),
        ("airflow", "NU", ("airflow", "other")),
        ("PPG2", "NU", ("PPG", "ppg")),
        ("SpO2 Pleth", "NU", ("PPG", "ppg")),
        ("IR", "NU", ("PPG infrared", "ppg")),
        ("RESP", "NU", ("RESP", "resp")),
        ("Resp (chest)", "l", ("RESP", "resp")),
        ("ART", "mmHg", ("ABP", "abp")),
        ("BP", "mmHg", ("ABP", "abp")),
        ("ACCX", "g", ("ACCX", "acc")),
        ("EEG (C4-A1)", "mV", ("EEG (C4-A1)", "eeg")),
        ("ABPSys", "mmHg", ("ABPSys", "other")),
        ("CVP", "mmHg", ("CVP", "other")),
        ("chest 7", "mV", ("chest 7", "ecg")),
        # Not lead III, not aVR: a bipolar derivation and an inverted lead.
        ("I-II", "mV", ("I-II", "ecg")),
        ("-aVR", "mV", ("-aVR", "ecg")),
    ],
)
def test_names(name, unit, expected):
    assert describe(name, unit) == expected


@given(st.text(max_size=30), st.sampled_from(["mV", "NU", None]))
def test_any_text_is_described(name, unit):
    canonical, kind = describe(name, unit)
    assert kind in {"ecg", "ppg", "resp", "abp", "spo2", "acc", "eeg", "eog", "emg", "other"}
    assert canonical == name.strip() or canonical.isascii()


def test_limb_axes_obey_the_limb_algebra():
    axis = {lead: np.array(lead_axis(lead)) for lead in ("I", "II", "III", "aVR", "aVL", "aVF")}
    # Directions of an equilateral triangle: III = II - I; the augmented leads point between their neighbours.
    assert np.allclose(axis["III"], axis["II"] - axis["I"])
    for augmented, sum_of in (("aVR", -axis["I"] - axis["II"]), ("aVL", axis["I"] - axis["III"])):
        assert np.allclose(axis[augmented], sum_of / np.linalg.norm(sum_of))
    assert np.allclose(axis["aVF"], (axis["II"] + axis["III"]) / np.linalg.norm(axis["II"] + axis["III"]))


def test_precordial_axes_agree_with_the_dower_matrix():
    # Lead vectors of the Frank torso (Dower 1980): x left, y feet, z back; independent of the textbook angles.
    dower = {
        "V1": (-0.515, 0.157, -0.917),
        "V2": (0.044, 0.164, -1.387),
        "V3": (0.882, 0.098, -1.277),
        "V4": (1.213, 0.127, -0.601),
        "V5": (1.125, 0.127, -0.086),
        "V6": (0.831, 0.076, 0.230),
        "I": (0.632, -0.235, 0.059),
        "II": (0.235, 1.066, -0.132),
    }
    for lead, vector in dower.items():
        cosine = np.dot(lead_axis(lead), vector) / np.linalg.norm(vector)
        assert np.degrees(np.arccos(cosine)) < 30, lead


def test_axes_are_unit_vectors_and_only_of_standard_leads():
    for lead in [*LEADS, "VX", "VY", "VZ", "MCL1"]:
        assert np.linalg.norm(lead_axis(lead)) == pytest.approx(1)
    assert lead_axis("MLII") == lead_axis("II")
    assert [lead_axis(name) for name in ("V", "ECG", "PPG", "V7")] == [None] * 4


def test_si_factor():
    assert [si_factor(unit) for unit in ("mV", "uV", "µV", "V", "NU", None)] == [1e-3, 1e-6, 1e-6, 1.0, None, None]
