import tomllib
import zipfile
from importlib import resources

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from toolkit import recipe as recipes
from toolkit.errors import UsageError

EVERY = [(name, size) for name in recipes.names() for size in (None, *recipes.sizes(name))]


@pytest.mark.parametrize(("name", "size"), EVERY)
def test_every_recipe_and_size_prints_as_toml_that_reads_back_equal(name, size):
    recipe = recipes.resolve(name, size=size)
    again = recipes.build(tomllib.loads(recipes.to_toml(recipe)), where="printed")
    assert again == recipe and recipes.fingerprint(again) == recipes.fingerprint(recipe)
    assert recipe.size == (size or "default")


@pytest.mark.parametrize("name", recipes.names())
def test_a_printed_recipe_is_a_recipe_file_of_its_own_size(name, tmp_path):
    recipe = recipes.resolve(name, size=recipes.sizes(name)[0])
    (tmp_path / "own.toml").write_text(recipes.to_toml(recipe))
    own = str(tmp_path / "own.toml")
    assert recipes.resolve(own) == recipes.resolve(own, size=recipe.size) == recipe
    assert recipes.sizes(own) == [recipe.size]
    with pytest.raises(UsageError, match="no size 'huge'"):
        recipes.resolve(own, size="huge")


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_has_the_contract_s_training_table_and_about_40_lines(name):
    recipe = recipes.resolve(name)
    assert {"steps", "batch_size", "seed", "log_every", "checkpoint_every"} <= set(type(recipe.training).model_fields)
    assert {"tiny", "small", "base", "large"} <= set(recipes.sizes(name))
    assert len([line for line in recipes.source(name).splitlines() if line and line[0] != "#"]) <= 45


@settings(max_examples=60, deadline=None)
@given(
    paper=st.text(st.characters(exclude_categories=["Cs"])),
    rate=st.integers(1, 40),
    learning=st.floats(1e-300, 1e300),
    betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
)
def test_any_text_and_number_survives_printing(paper, rate, learning, betas):
    recipe = recipes.resolve(
        "csfm",
        size="tiny",
        flags={"paper": paper, "data.rate_hz": 25 * rate, "optimizer.learning_rate": learning, "optimizer.betas": list(betas)},
    )
    assert recipes.build(tomllib.loads(recipes.to_toml(recipe)), where="printed") == recipe


WRONG = [
    ("mask.ratoi=0.5", ["'mask.ratoi'", "0.5", "Did you mean 'mask.ratio'?"]),
    ("training.step=5", ["'training.step'", "Did you mean 'training.steps'?"]),
    ("optimiser.clip_norm=1.0", ["'optimiser'", "optimizer"]),
    ("training.steps=many", ["'training.steps'", "integer", "'many'"]),
    ("training.steps=1.5", ["'training.steps'", "integer", "1.5"]),
    ("training.steps=true", ["'training.steps'", "integer", "True"]),
    ("training.steps=0", ["'training.steps'", "greater than 0", "0"]),
    ("training.seed=-1", ["'training.seed'", "greater than or equal to 0", "-1"]),
    ("training.seed=4294967296", ["'training.seed'", "4294967296"]),
    ("training=5", ["'training'", "got 5"]),
    ("mask.ratio=1.5", ["'mask.ratio'", "less than or equal to 1", "1.5"]),
    ("mask.span_patches=[3, 2]", ["mask.span_patches", "[3, 2]"]),
    ("mask.span_patches=[3]", ["mask.span_patches"]),
    ("loss.kind=l3", ["'loss.kind'", "'l1'", "'l3'"]),
    ("optimizer.learning_rate=nan", ["'optimizer.learning_rate'", "nan"]),
    ("optimizer.learning_rate=inf", ["'optimizer.learning_rate'", "inf"]),
    ("optimizer.betas=[0.9, 1.0]", ["optimizer.betas", "less than 1"]),
    ("data.rate_hz=inf", ["'data.rate_hz'", "inf"]),
    ("data.rate_hz=-250", ["'data.rate_hz'", "greater than 0", "-250"]),
    ("data.window_s=10.01", ["data.window_s", "10.01 s", "250.0 Hz", "25 samples"]),
    ("position.longest=[4, 4, 4, 0]", ["position.longest", "greater than 0"]),
    ("encoder.head_width=3", ["encoder.head_width", "3"]),
    ("embedding.layer=0", ["embedding.layer", "0"]),
    ("embedding.layer=-99", ["embedding.layer", "-99"]),
    ("embedding.pool=median", ["'embedding.pool'", "'mean'", "'median'"]),
    ("size=tiny", ["--size"]),
    ("training.steps", ["KEY=VALUE", "training.steps"]),
    ("training.steps.more=1", ["'steps' is a value"]),
]


@pytest.mark.parametrize(("setting", "words"), WRONG)
def test_a_wrong_setting_is_named_with_what_was_expected(setting, words):
    with pytest.raises(UsageError) as error:
        recipes.resolve("csfm", size="tiny", settings=[setting])
    assert error.value.exit_code == 2
    assert all(word in str(error.value) for word in words), str(error.value)


def test_every_problem_is_named_at_once():
    with pytest.raises(UsageError, match=r"mask\.ratio.*training\.steps"):
        recipes.resolve("csfm", settings=["mask.ratio=2.0", "training.steps=-1"])


def test_a_missing_key_is_named(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(recipes.to_toml(recipes.resolve("csfm", size="tiny")).replace("learning_rate", "# "))
    with pytest.raises(UsageError, match=r"'optimizer\.learning_rate' is missing"):
        recipes.resolve(str(path))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cfsm", ["no recipe 'cfsm'", "Did you mean 'csfm'?"]),
        ("gone.toml", ["gone.toml", "cannot be read"]),
        ("folder.toml", ["folder.toml", "cannot be read"]),
        ("latin.toml", ["latin.toml", "cannot be read"]),
        ("broken.toml", ["not valid TOML", "line 1"]),
        ("sizes.toml", ["size"]),
    ],
)
def test_a_recipe_that_is_not_there_or_no_toml(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "latin.toml").write_bytes(b"paper = '\xe9'")
    (tmp_path / "broken.toml").write_text("a = = 1")
    (tmp_path / "sizes.toml").write_text("[size]\ntiny = 3\n")
    with pytest.raises(UsageError) as error:
        recipes.resolve(name, size="tiny")
    assert all(word in str(error.value) for word in words), str(error.value)


def test_flags_win_over_settings_over_size_over_recipe():
    written, tiny = recipes.resolve("csfm"), recipes.resolve("csfm", size="tiny")
    sized = tomllib.loads(recipes.source("csfm"))["size"]["tiny"]
    assert written.training.steps != sized["training"]["steps"] == tiny.training.steps
    assert tiny.optimizer.weight_decay == written.optimizer.weight_decay  # what the size leaves out stays
    both = recipes.resolve("csfm", size="tiny", settings=["training.steps=7", "training.steps=8", "encoder.depth=1"])
    assert (both.training.steps, both.encoder.depth) == (8, 1)
    flagged = recipes.resolve(
        "csfm", size="tiny", settings=["training.steps=7", "training.seed=5"], flags={"training.steps": 9, "training.seed": None}
    )
    assert (flagged.training.steps, flagged.training.seed) == (9, 5)


def test_a_resolved_recipe_cannot_be_changed():
    recipe = recipes.resolve("csfm")
    for table in (recipe, recipe.training):
        with pytest.raises(ValidationError):
            table.__setattr__(next(iter(type(table).model_fields)), 1)


def test_whole_numbers_are_read_where_a_number_is_meant():
    recipe = recipes.resolve("csfm", settings=["data.rate_hz=500", "optimizer.clip_norm=2", "position.longest=[4, 4, 4, 30]"])
    assert [type(v) for v in (recipe.data.rate_hz, recipe.optimizer.clip_norm, recipe.position.longest[3])] == [float] * 3
    assert recipe.data.window == 10.0


def test_recipes_travel_with_the_package_and_are_read_from_a_zip_too(tmp_path, monkeypatch):
    inside = {entry.name for entry in resources.files("recipes").iterdir() if entry.name.endswith(".toml")}
    assert inside == {f"{name}.toml" for name in recipes.names()} and "csfm" in recipes.names()
    with zipfile.ZipFile(tmp_path / "wheel.zip", "w") as wheel:
        wheel.writestr("recipes/__init__.py", "")
        wheel.writestr("recipes/other.toml", recipes.source("csfm"))
    monkeypatch.setattr(recipes, "_folder", lambda: zipfile.Path(tmp_path / "wheel.zip", "recipes/"))
    assert recipes.names() == ["other"] and recipes.resolve("other").name == "csfm"


def test_two_recipes_share_a_fingerprint_only_when_they_are_equal():
    one, other = (recipes.resolve("csfm", settings=[f"training.seed={s}"]) for s in (1, 2))
    assert recipes.fingerprint(one) != recipes.fingerprint(other)
    assert recipes.fingerprint(one) == recipes.fingerprint(recipes.resolve("csfm", flags={"training.seed": 1}))
