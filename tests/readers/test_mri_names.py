"""Contrasts, sessions and ids from file names."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from readers.mri import NiftiReader
from readers.mri_names import ids_of, parts_of


@pytest.mark.parametrize(
    ("name", "word", "contrast"),
    [
        ("sub-01_ses-1_acq-mprage_T1w.nii.gz", "T1w", "T1w"),
        ("sub-01_ce-gad_T1w.nii.gz", "ce-gad_T1w", "T1ce"),
        ("sub-01_FLAIR.nii", "FLAIR", "FLAIR"),
        ("sub-01_T2starw.nii", "T2starw", "T2starw"),
        ("sub-01_PDw.nii", "PDw", "PDw"),
        ("sub-01_desc-brain_mask.nii.gz", "mask", "mask"),
        ("sub-01_task-rest_bold.nii.gz", "bold", "bold"),
        ("BraTS2021_00000_t1ce.nii.gz", "t1ce", "T1ce"),
        ("BraTS2021_00000_t1.nii.gz", "t1", "T1w"),
        ("BraTS2021_00000_seg.nii.gz", "seg", "mask"),
        ("BraTS-GLI-00000-000-t1c.nii.gz", "t1c", "T1ce"),
        ("BraTS-GLI-00000-000-t1n.nii.gz", "t1n", "T1w"),
        ("BraTS-GLI-00000-000-t2w.nii.gz", "t2w", "T2w"),
        ("BraTS-GLI-00000-000-t2f.nii.gz", "t2f", "FLAIR"),
        ("BraTS-GLI-00000-000-seg.nii.gz", "seg", "mask"),
        ("mscs07_T1wGd.nii.gz", "T1wGd", "T1ce"),
        ("mscs07_T1w_Gd.nii.gz", "T1w_Gd", "T1ce"),
        ("mscs07_lesionmask.nii.gz", "lesionmask", "mask"),
        ("p_T2_FLAIR.hdr", "T2_FLAIR", "FLAIR"),
        ("IXI014-HH-1236_T1.nii.gz", "T1", "T1w"),
        ("FLAIR.nii", "FLAIR", "FLAIR"),
        ("scan042.nii.gz", "volume", "volume"),
        ("brainmask2.nii.gz", "volume", "volume"),
        ("T1w_to_mni.nii", "volume", "volume"),
    ],
)
def test_contrast_of_a_name(name, word, contrast):
    parts = parts_of(Path(name))
    assert (parts.word, parts.contrast) == (word, contrast)


def grouped(*names: str, shuffle: int = 0) -> list[list[str]]:
    given = list(names)
    random.Random(shuffle).shuffle(given)
    return sorted([str(path) for path in group] for group in NiftiReader().groups([Path(name) for name in given]))


@pytest.mark.parametrize("seed", range(3))
def test_contrasts_of_one_session_are_one_recording(seed):
    brats = [f"a/BraTS-GLI-00000-000-{word}.nii.gz" for word in ("t1n", "t1c", "t2w", "t2f")]
    older = [f"b/BraTS2021_00001_{word}.nii.gz" for word in ("t1", "t1ce", "t2", "flair")]
    lesions = [f"ms/mscs07_{word}.nii.gz" for word in ("T1w", "T1wGd", "T2w", "FLAIR")]
    other = [f"ms/mscs19_{word}.nii.gz" for word in ("T1w", "FLAIR", "PD", "ADC", "swi")]
    alone = [["a/BraTS-GLI-00000-000-seg.nii.gz"], ["ms/mscs07_lesionmask.nii.gz"], ["ms/scan1.nii"], ["ms/scan2.nii"]]
    given = [*brats, *older, *lesions, *other, *(path for group in alone for path in group)]
    assert grouped(*given, shuffle=seed) == sorted([brats, older, lesions, other, *alone])


def test_bids_sessions_differ_by_more_than_contrast():
    stem = "sub-01/ses-1/anat/sub-01_ses-1"
    assert grouped(f"{stem}_T1w.nii.gz", f"{stem}_ce-gad_T1w.nii.gz", f"{stem}_acq-fast_FLAIR.nii.gz", f"{stem}_bold.nii.gz") == [
        [f"{stem}_T1w.nii.gz", f"{stem}_ce-gad_T1w.nii.gz", f"{stem}_acq-fast_FLAIR.nii.gz"],
        [f"{stem}_bold.nii.gz"],
    ]
    two = [f"{stem}_run-1_T1w.nii", f"{stem}_run-2_T1w.nii", f"{stem}_run-1_T2w.nii", "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii"]
    assert grouped(*two) == [[two[0], two[2]], [two[1]], [two[3]]]
    twice = [f"{stem}_acq-{a}_{c}.nii" for a in "ab" for c in ("T1w", "T2w")]
    assert grouped(*twice) == [twice[:2], twice[2:]]
    assert grouped("s_T1.nii", "s_T1w.nii", "s_T2.nii") == [["s_T1.nii"], ["s_T1w.nii"], ["s_T2.nii"]]


def test_ids(tmp_path):
    assert ids_of(Path("sub-01_ses-b_run-2_T1w.nii.gz")) == {"subject": "01", "session": "b", "run": "2"}
    assert ids_of(Path("BraTS2021_00000_t1ce.nii.gz")) == {"subject": "BraTS2021_00000"}
    assert ids_of(Path("BraTS20_Training_001_t1.nii.gz")) == {"subject": "BraTS20_Training_001"}
    assert ids_of(Path("BraTS-GLI-00012-001-t2f.nii.gz")) == {"subject": "BraTS-GLI-00012", "session": "001"}
    assert ids_of(Path("mscs07_T1w.nii.gz")) == {} == ids_of(Path("IXI014-HH-1236_T1.nii.gz"))
