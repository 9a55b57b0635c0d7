"""``toolkit demo``: what is refused before any work."""

import pytest


@pytest.mark.parametrize(("words", "hint"), [(["birds", "--subjects", 5], "6 or more"), (["all", "--subjects", 2], "3 or more")])
def test_too_few_subjects_to_compare(toolkit, tmp_path, words, hint) -> None:
    assert hint in toolkit("demo", *words, "--out", tmp_path / "demo", code=2).error
    assert not (tmp_path / "demo").exists()
