"""PSA-SSL: laid over a point system, or added to any recipe of points by a flag."""

from __future__ import annotations

import tomllib

import pytest
import torch
from typer.testing import CliRunner

from tests.objective.makers import CPU, engine, small, synthetic
from toolkit import recipe as recipes
from toolkit.cli.app import app
from toolkit.errors import UsageError

ADDED = ["box", "beams"]
POINT_RECIPES = sorted(name for name in recipes.names() if "points" in recipes.domains_of(name) and name != "psa-ssl")


def resolved(name, *with_, **flags):
    return recipes.resolve(name, size="tiny", domain="points", with_=with_, flags=flags)


@pytest.mark.parametrize("name", POINT_RECIPES)
def test_it_is_added_to_every_recipe_of_points_after_its_own_passes_and_terms(name):
    base, both = resolved(name), resolved(name, "psa-ssl")
    here = len(base.passes)
    kept = [term for term in both.terms if term.name not in ADDED]
    assert kept[: len(base.terms)] == list(base.terms) and both.passes[:here] == base.passes
    assert [term.name for term in both.terms][-2:] == ADDED and both.teacher == base.teacher
    box, beams = both.terms[-2:]
    assert (box.on, beams.on, beams.truth) == (len(both.passes) - 2, len(both.passes) - 2, len(both.passes) - 1)
    assert [each.view for each in both.passes[-2:]] == ["beams", "beams"] and both.mask_of(box.on).ratio == 0
    for key in ("data", "tokenizer", "encoder", "decoder", "mask", "loss", "training", "optimizer", "embedding"):
        assert getattr(both, key) == getattr(base, key)
    assert recipes.build(tomllib.loads(recipes.to_toml(both)), where="printed") == both


def test_the_reconstruction_is_there_once():
    assert [term.name for term in resolved("point-cmae", "psa-ssl").terms].count("reconstruction") == 1
    without = resolved("byol", "psa-ssl")  # has none of its own
    assert [term.name for term in without.terms] == ["forth", "back", "reconstruction", *ADDED]
    assert [term.on for term in without.terms] == [0, 1, 2, 3, 3] and len(without.passes) == 5


def test_what_is_added_can_be_set_and_names_itself():
    both = recipes.resolve("point-cmae", with_=["psa-ssl"], settings=["terms.3.weight=0.25"])
    assert (both.name, both.terms[3].name, both.terms[3].weight) == ("point-cmae+psa-ssl", "box", 0.25)
    assert "Point-CMAE" in both.paper and "PSA-SSL" in both.paper


def test_a_pass_keeps_the_mask_of_its_objective():
    base, other = (recipes.resolve(name, domain="eeg", size="tiny") for name in ("reve", "selfie"))
    both = recipes.resolve("reve", domain="eeg", size="tiny", with_=["selfie"])
    assert both.passes[len(base.passes)].mask.ratio == other.mask.ratio != base.mask.ratio == both.mask.ratio


REFUSED = [
    ("csfm", "psa-ssl", "does not run on domain 'cardiac'"),
    ("point-cmae", "point-cmae", "a system with data and a model of its own"),
    ("psa-ssl", "psa-ssl", "all its terms are there already"),
    ("point-cmae", "position", "it sets encoder, of which a run has one"),
    ("point-cmae", "psa", "There is no recipe 'psa'"),
]


@pytest.mark.parametrize(("name", "other", "words"), REFUSED)
def test_what_cannot_be_added_is_refused_with_the_reason(name, other, words):
    with pytest.raises(UsageError) as error:
        recipes.resolve(name, with_=[other])
    assert words in str(error.value), str(error.value)


def test_two_teachers_are_refused():
    with pytest.raises(UsageError, match="their teachers differ"):
        recipes.resolve("byol", with_=["data2vec2"], domain="points")


BOXES = {"target": "box", "queries": "visible", "predictor": "none", "loss": "l1", "name": "box"}
LOOK = {"mask": {"ratio": 0.0, "ways": {"random": 1.0}}}
WRONG = [
    ("mae", "eeg", {"terms": [BOXES], "passes": [LOOK]}, "'box' is of a point cloud"),
    ("mae", "eeg", {"passes": [{"view": "beams"}]}, "'beams' are of point clouds"),
    ("mae", "points", {"terms": [BOXES], "passes": [LOOK | {"view": "style"}]}, "passes.view = 'style'"),
    ("psa-ssl", "points", {"terms.2.truth": 1}, "a 'view' is that of another pass than 1"),
    ("psa-ssl", "points", {"terms.1.loss": "cosine"}, "'cosine' cannot compare with target 'box'"),
    ("psa-ssl", "points", {"terms.2.loss": "l2", "terms.2.temperature": None}, "terms.temperature"),
]


@pytest.mark.parametrize(("name", "domain", "flags", "words"), WRONG)
def test_tables_that_ask_for_boxes_or_views_that_are_not_there_are_refused(name, domain, flags, words):
    with pytest.raises(UsageError) as error:
        recipes.resolve(name, domain=domain, flags=flags)
    assert words in str(error.value), str(error.value)


def test_a_step_is_a_function_of_its_number():
    """As a resumed run must have it: views and boxes are drawn anew for each step."""
    recipe = small("psa-ssl", "points")
    first, again = engine(recipe), engine(recipe)
    batch = synthetic(recipe)
    first(batch, 0, CPU)
    three, same, four = first(batch, 3, CPU), again(batch, 3, CPU), again(batch, 4, CPU)
    for name in ("reconstruction", *ADDED):
        assert torch.equal(three.terms[name].loss, same.terms[name].loss)
        assert not torch.equal(three.terms[name].loss, four.terms[name].loss)


def test_the_flag_shows_what_it_adds(tmp_path):
    (tmp_path / "cloud.xyz").write_text("0 0 0\n1 0 0\n0 1 0\n0 0 1\n")
    words = [
        "pretrain",
        str(tmp_path),
        "--recipe",
        "point-cmae",
        "--size",
        "tiny",
        "--with",
        "psa-ssl",
        "--out",
        str(tmp_path / "r"),
    ]
    done = CliRunner().invoke(app, [*words, "--print-config"])
    assert done.exit_code == 0, done.stderr
    assert recipes.build(tomllib.loads(done.stdout), where="printed") == recipes.resolve(
        "point-cmae", size="tiny", with_=["psa-ssl"]
    )
