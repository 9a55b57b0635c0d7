"""The recipes that are objectives: laid over the system of any domain."""

import itertools
import re
import tomllib

import pytest

from toolkit import recipe as recipes
from toolkit.errors import UsageError
from toolkit.recipe import TermTable

OBJECTIVES = [name for name in recipes.names() if "data" not in tomllib.loads(recipes.source(name))]
ROWS = [(name, domain) for name in OBJECTIVES for domain in recipes.domains_of(name)]
SYSTEM_KEYS = ("data", "position", "decoder", "training", "optimizer")


def table(name):
    return tomllib.loads(recipes.source(name))


@pytest.mark.parametrize(("name", "domain"), ROWS)
def test_an_objective_resolves_on_every_domain_and_size_and_prints_as_toml_that_reads_back_equal(name, domain):
    for size in (None, *recipes.sizes(name)):
        recipe = recipes.resolve(name, size=size, domain=domain)
        assert (recipe.domains, recipe.size, recipe.name) == ((domain,), size or "default", name)
        again = recipes.build(tomllib.loads(recipes.to_toml(recipe)), where="printed")
        assert again == recipe and recipes.fingerprint(again) == recipes.fingerprint(recipe)


@pytest.mark.parametrize(("name", "domain"), ROWS)
def test_what_an_objective_does_not_name_is_the_domain_s_and_what_it_names_is_its_own(name, domain):
    own, system = table(name), recipes.resolve(recipes.SYSTEMS[domain], size="tiny")
    recipe = recipes.resolve(name, size="tiny", domain=domain)
    sized = {key for layer in (own, own["size"]["tiny"] if "size" in own else {}) for key in layer}
    for key in SYSTEM_KEYS:
        assert (getattr(recipe, key) == getattr(system, key)) or key in sized
    assert [term.name for term in recipe.terms] == [term["name"] for term in own["terms"]]
    assert len(recipe.passes) == len(own.get("passes", [{}]))
    assert (recipe.teacher is None) == ("teacher" not in own)


def test_every_domain_takes_every_objective():
    assert len(OBJECTIVES) >= 27
    everywhere = {name: set(recipes.SYSTEMS) for name in OBJECTIVES}
    of_points = {name: {"points"} for name in ("i2p-mae", "psa-ssl")}  # boxes, and views of a cloud
    assert {name: set(recipes.domains_of(name)) for name in OBJECTIVES} == everywhere | of_points


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_header_names_the_paper_and_the_code_and_a_command_that_exists(name):
    lines = recipes.source(name).splitlines()
    header = " ".join(line[2:] for line in lines if line.startswith("# "))
    assert header.startswith(f"{name}: ") and len(lines) <= 40
    assert 'Paper: "' in header and "Public code: " in header and max(map(len, lines)) <= 130
    command = re.search(r"Run it:  toolkit (.*)", header)[1].split()
    assert command[0] == "pretrain" and command[command.index("--recipe") + 1] == name
    for option, value in itertools.pairwise(command):
        if option == "--size":
            assert value in recipes.sizes(name)
        if option == "--set":
            recipes.resolve(name, settings=[value])
    paper = table(name)["paper"]
    numbers = re.findall(r"arXiv (\d{4}\.\d{5})", paper)
    assert numbers and all(number in header for number in numbers)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_learning_rate_is_set_for_all_sizes(name):
    assert "learning_rate" not in table(name).get("optimizer", {})


def test_a_teacher_of_the_tiny_size_forgets_within_its_run():
    followed = [(n, recipes.resolve(n, size="tiny", domain=d)) for n, d in ROWS if "teacher" in table(n)]
    for name, recipe in followed:
        if recipe.teacher.kind == "ema":
            # Half of the teacher's weight must be newer than half of the run: 1 / (1 - rate) is the memory in steps.
            assert 1 / (1 - recipe.teacher.start) <= recipe.training.steps / 2, name
    assert len({name for name, _ in followed}) >= 5


def test_every_target_loss_predictor_and_fill_is_in_some_recipe():
    seen = [recipes.resolve(name, domain=domain) for name, domain in ROWS]
    terms = [term for recipe in seen for term in recipe.terms]
    predictors = {term.predictor for term in terms}
    assert predictors == set(TermTable.model_fields["predictor"].annotation.__args__)
    targets = set(TermTable.model_fields["target"].annotation.__args__)
    assert targets == {term.target for term in terms}
    assert {"drop", "keep", "token", "noise", "foreign"} <= {fill for r in seen for look in r.passes for fill in look.fill}
    masks = [r.mask_of(number) for r in seen for number in range(len(r.passes))]
    used = {way for mask in masks for way, odds in mask.ways.model_dump().items() if odds}
    assert used == set(type(seen[0].mask.ways).model_fields)


@pytest.mark.parametrize(
    ("name", "term", "constants"),
    [
        ("crossmae", 0, {"mix_layers": True}),
        ("cae", 0, {"weight": 2.0, "sees": "hidden", "read_queries": True}),
        ("global-token", 1, {"weight": 0.1, "mix_layers": True}),
        ("reve", 1, {"weight": 0.1, "mix_layers": True}),
        ("point-cmae", 2, {"weight": 0.001, "partners": "same"}),
        ("hubert", 0, {"codes": 100}),
        ("graphmae", 0, {"gamma": 2.0, "memory": "visible", "depth": 1}),
        ("fsfm", 1, {"weight": 0.05, "truth": 0}),
        ("iat", 1, {"gate": "reverse", "gate_scale": 1.0}),
        ("i2p-mae", 1, {"target": "image", "queries": "visible", "loss": "l2"}),
    ],
)
def test_published_constants(name, term, constants):
    found = recipes.resolve(name).terms[term].model_dump()
    assert {key: found[key] for key in constants} == constants


def test_shares_that_papers_give_of_all_tokens():
    recipe = recipes.resolve("crossmae")
    assert recipe.mask.ratio * recipe.terms[0].share == pytest.approx(0.5, abs=1e-3)
    papers = {"mae": 0.75, "cae": 0.5, "spark": 0.6, "croco": 0.9, "sigma": 0.9, "fsfm": 0.75, "data2vec2": 0.8, "muq": 0.6}
    assert {name: recipes.resolve(name).mask.ratio for name in papers} == papers


@pytest.mark.parametrize("name", ["mae", "gmml", "global-token", "crossmae", "croco"])
def test_sets_of_points_are_compared_as_sets(name):
    kinds = {domain: recipes.resolve(name, domain=domain).loss.kind for domain in recipes.domains_of(name)}
    assert kinds.pop("points") == "chamfer" and set(kinds.values()) == {table(name)["loss"]["kind"]}


def test_a_convnet_replaces_the_domain_s_transformer_and_clouds_become_voxels():
    for domain in recipes.domains_of("spark"):
        widths = [recipes.resolve("spark", size=size, domain=domain).encoder.width for size in ("tiny", "small", "base", "large")]
        assert widths == sorted(set(widths))
        assert recipes.resolve("spark", size="tiny", domain=domain).backend == "convnet"
    assert recipes.resolve("spark", domain="points").tokenizer.kind == "voxels"


def test_a_curriculum_hides_more_and_more():
    mask = recipes.resolve("bioptimus").mask
    ratios, starts = [mask.ratio, *(stage.ratio for stage in mask.stages)], [stage.start for stage in mask.stages]
    assert len(ratios) == 3 and ratios == sorted(set(ratios)) and starts == sorted(set(starts))


def test_an_objective_s_table_that_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="would do nothing"):
        recipes.resolve("mae", settings=["terms.0.codes=5"])
    with pytest.raises(UsageError, match="does not run on domain 'text'"):
        recipes.resolve("mae", domain="text")
