import copy
import tomllib
import zipfile
from importlib import resources

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from toolkit import recipe as recipes
from toolkit.errors import UsageError
from toolkit.recipe import PassTable, TermTable
from toolkit.recipe.objective import LOSSES_OF, OPTIONS, TARGETS_OF

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


shares = st.floats(0, 1)
ways = st.fixed_dictionaries({"random": st.floats(0.1, 9)}, optional={"blocks": shares, "groups": shares})
masks = st.fixed_dictionaries(
    {"ratio": st.floats(0.1, 1), "ways": ways},
    optional={
        "span_patches": st.just([2, 5]),
        "groups_of_channels": st.lists(st.lists(st.sampled_from(["I", "II", "V1"]), min_size=1, max_size=2), max_size=2),
        "stages": st.lists(st.fixed_dictionaries({"start": shares}, optional={"ratio": shares, "ways": ways}), max_size=3),
    },
)
passes = st.fixed_dictionaries(
    {},
    optional={
        "view": st.sampled_from(["plain", "other", "style"]),
        "mask": masks,
        "fill": st.lists(st.sampled_from(["keep", "token", "zero", "foreign"]), min_size=1, max_size=3),
        "repeat": st.integers(1, 9),
    },
)
terms = st.fixed_dictionaries(
    {"name": st.from_regex("[a-z][a-z0-9_-]{0,9}", fullmatch=True)},
    optional={
        "weight": st.floats(1e-6, 1e6),
        "share": st.floats(0.01, 1),
        "depth": st.integers(1, 9),
        "read_queries": st.booleans(),
        "target": st.sampled_from(["raw", "patch_norm"]),
        "loss": st.sampled_from(["patch", "l1"]),
    },
)


@settings(max_examples=60, deadline=None)
@given(
    passes=st.lists(passes, min_size=1, max_size=3),
    terms=st.lists(terms, min_size=1, max_size=3, unique_by=lambda term: term["name"]),
    teacher=st.none() | st.fixed_dictionaries({"kind": st.sampled_from(["ema", "copy", "frozen"])}, optional={"end": st.just(1)}),
)
def test_any_objective_survives_printing(passes, terms, teacher):
    flags = {"passes": passes, "terms": terms, "teacher": teacher}
    recipe = recipes.resolve("csfm", size="tiny", flags=copy.deepcopy(flags))
    text = recipes.to_toml(recipe)
    again = recipes.build(tomllib.loads(text), where="printed")
    assert again == recipe and recipes.to_toml(again) == text
    assert [t.name for t in again.terms] == [t["name"] for t in terms] and len(again.passes) == len(passes)
    for table, asked in zip((*again.passes, *again.terms), (*passes, *terms), strict=True):
        plain = table.model_dump(mode="json")
        assert {k: plain[k] for k in asked if k != "mask"} == {k: v for k, v in asked.items() if k != "mask"}
        if mask := asked.get("mask"):
            assert (table.mask.ratio, len(table.mask.stages)) == (mask["ratio"], len(mask.get("stages", [])))


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
    ("mask.ways.gap=1", ["'mask.ways.gap'", "Did you mean 'mask.ways.gaps'?"]),
    ("mask.ways={ random = 0 }", ["mask.ways", "all 0"]),
    ("mask.stages=[{ start = 0.5, ratoi = 0.3 }]", ["'mask.stages.0.ratoi'", "Did you mean 'mask.stages.ratio'?"]),
    ("mask.groups_of_channels=[['I', 'V7']]", ["mask.groups_of_channels", "'V7'", "Did you mean 'V6'"]),
    ("mask.block=[0.5, 0.2]", ["mask.block", "[0.5, 0.2]"]),
    ("position.rotary=['q']", ["'position.rotary.0'", "'x'", "'q'"]),
    ("encoder.kind=vitt", ["'encoder.kind'", "'vitt'", "'convnet'"]),
    ("decoder.class_token=true", ["decoder", "the encoder's"]),
    ("teacher.kind=emma", ["'teacher.kind'", "'ema'", "'emma'"]),
    ("teacher={ kind = 'ema', start = 1, end = 0.9 }", ["teacher.start", "1.0", "teacher.end = 0.9"]),
    ("teacher={ kind = 'ema', path = 'run' }", ["teacher.path", "'frozen'"]),
    ("backend=vit", ["Unknown key 'backend'", "'vit'"]),
    ("passes=[]", ["passes and terms", "at least one"]),
    ("terms=[]", ["passes and terms", "at least one"]),
    ("terms=3", ["'terms'", "got 3"]),
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


# Settings of the tables in a list. "global-token" has two terms, "data2vec2" one and a teacher.


@pytest.mark.parametrize("by", ["settings", "flags"])
def test_a_number_stands_for_one_of_the_tables_in_a_list(by):
    plain = recipes.resolve("global-token", size="tiny")
    given = {"settings": ["terms.1.weight=0.5"]} if by == "settings" else {"flags": {"terms.1.weight": 0.5}}
    changed = recipes.resolve("global-token", size="tiny", **given)
    assert [t.weight for t in changed.terms] == [plain.terms[0].weight, 0.5] != [t.weight for t in plain.terms]
    assert changed.model_copy(update={"terms": plain.terms}) == plain
    back = f"terms.1.weight={plain.terms[1].weight}"
    assert recipes.resolve("global-token", size="tiny", settings=["terms.1.weight=0.5", back]) == plain  # the last one counts


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("terms.0.weigth=2", ["'terms.0.weigth'", "value 2", "Did you mean 'terms.weight'?"]),
        ("terms.1.predicter=pool", ["'terms.1.predicter'", "Did you mean 'terms.predictor'?"]),
        ("terms.0.predictor=crass", ["'terms.0.predictor'", "'cross'", "'crass'"]),
        ("terms.0.weight=-1", ["'terms.0.weight'", "greater than 0", "-1"]),
        ("terms.0.weight=much", ["'terms.0.weight'", "number", "'much'"]),
        ("terms.0.share=0", ["'terms.0.share'", "greater than 0"]),
        ("terms.2.weight=2", ["'2' stands for one of 2 tables", "a number from 0 on"]),
        ("terms.-1.weight=2", ["'-1' stands for one of 2 tables"]),
        ("terms.weight=2", ["'weight' stands for one of 2 tables"]),
        ("terms.0=3", ["'terms.0'", "got 3"]),
        ("terms.1.weight.more=3", ["'weight' is a value"]),
    ],
)
def test_a_wrong_setting_of_a_term_is_named_with_what_was_expected(setting, words):
    with pytest.raises(UsageError) as error:
        recipes.resolve("global-token", size="tiny", settings=[setting])
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize("name", ["csfm", "mae"])
def test_the_tables_that_a_recipe_leaves_out_can_be_set_too(name):
    recipe = recipes.resolve(name, size="tiny", settings=["terms.0.weight=0.5", "passes.0.repeat=2"])
    assert (recipe.terms[0].weight, recipe.passes[0].repeat) == (0.5, 2)


# Options that would do nothing, and terms that ask for what is not there.

VALUES = {
    "name": "t",
    "of": "reconstruction",
    "twin": "reconstruction",
    "like": "reconstruction",
    "memory": "visible",
    "pool": "mean",
    "gate": "stop",
}
VALUES |= {"sees": "hidden", "norm": "none", "partners": "all", "read_queries": True, "mix_layers": True, "reveal": 0.5}
VALUES |= {"gamma": 2.0, "temperature": 0.1, "gate_scale": 2.0, "sum_channels": True}
ALL_OPTIONS = sorted({option for table in OPTIONS.values() for options in table.values() for option in options})


def choices(key):
    return TermTable.model_fields[key].annotation.__args__


@pytest.mark.parametrize("option", ALL_OPTIONS)
def test_an_option_is_refused_wherever_it_would_do_nothing(option):
    """Every predictor, target and loss, the other two as they are when nothing is said: cross, raw, patch."""
    value = VALUES.get(option, 2)
    assert TermTable.model_fields[option].default is None  # so that a value can be told from no value
    for key in ("predictor", "target", "loss"):
        chosen = {"predictor": "cross", "target": "raw", "loss": "patch"}
        for choice in choices(key):
            chosen[key] = choice
            used = any(option in OPTIONS[k].get(v, ()) for k, v in chosen.items())
            try:
                TermTable(name="t", **chosen, **{option: value})
                refused = False
            except ValidationError as problem:
                refused = f"terms.{option} of term 't' would do nothing" in str(problem)
            assert refused != used, chosen


def test_the_table_of_options_names_what_there_is():
    for key, table in OPTIONS.items():
        assert set(table) <= set(choices(key))
    assert set(TARGETS_OF) <= set(choices("loss")) and set(LOSSES_OF) <= set(choices("target"))
    always = {"name", "on", "queries", "share", "weight", "predictor", "target", "loss"}
    assert set(TermTable.model_fields) == always | set(ALL_OPTIONS)


MISFITS = [
    ("csfm", {"codes": 5}, ["terms.codes", "would do nothing", "target = 'raw'"]),
    ("csfm", {"pool": "mean"}, ["terms.pool", "would do nothing", "predictor = 'cross'"]),
    ("csfm", {"temperature": 0.1}, ["terms.temperature", "would do nothing", "loss = 'patch'"]),
    ("csfm", {"predictor": "joint", "mix_layers": True}, ["terms.mix_layers", "predictor = 'joint'"]),
    ("csfm", {"predictor": "pool", "gate": "stop", "gate_scale": 2.0}, ["terms.gate_scale", "gate = 'reverse'"]),
    ("csfm", {"target": "codes"}, ["terms.loss", "'patch'", "'codes'"]),
    ("csfm", {"loss": "ce"}, ["terms.loss", "'ce'", "'raw'"]),
    ("csfm", {"target": "content", "loss": "l2"}, ["terms.loss", "'l2'", "'content'"]),
    ("csfm", {"on": 1}, ["terms.on", "no pass 1", "0 to 0"]),
    ("csfm", {"beside": 3}, ["terms.beside", "no pass 3"]),
    ("csfm", {"on": -1}, ["'terms.0.on'", "greater than or equal to 0"]),
    ("csfm", {"predictor": "chain", "of": "first"}, ["terms.of", "'first' is not a term before it"]),
    ("csfm", {"predictor": "chain"}, ["terms.of", "name it"]),
    ("csfm", {"target": "latent", "loss": "l2"}, ["terms.target", "needs a [teacher]"]),
    ("csfm", {"predictor": "unet"}, ["terms.predictor", "'unet'", "encoder.kind = 'vit'"]),
    ("csfm", {"predictor": "none"}, ["terms.predictor", "fill = 'drop' leaves out"]),
    ("reve", {"predictor": "pool", "pool": "class"}, ["terms.pool", "encoder.class_token = true"]),
    ("csfm", {"target": "subject", "loss": "ce"}, ["terms.predictor", "one a sample, expected 'pool'"]),
    ("csfm", {"predictor": "same", "of": "t"}, ["predictor = 'same'", "target = 'twin'"]),
    ("spark", {"predictor": "joint"}, ["terms.predictor", "'joint'", "encoder.kind = 'convnet'"]),
]


@pytest.mark.parametrize(("name", "term", "words"), MISFITS)
def test_a_term_that_asks_for_what_is_not_there_is_refused_by_name(name, term, words):
    with pytest.raises(UsageError) as error:
        recipes.resolve(name, size="tiny", flags={"terms": [{"name": "t"} | term]})
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "'t'" in str(error.value) or "terms.0" in str(error.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["passes=[{ fill = ['drop', 'zero'] }]"], ["passes.fill", "'drop' only alone"]),
        (["passes=[{ fill = [] }]"], ["passes.fill", "one or more"]),
        (["passes=[{ swapped = 0.1 }]"], ["passes.swapped", "choose a fill"]),
        (["passes=[{ filll = ['keep'] }]"], ["'passes.0.filll'", "Did you mean 'passes.fill'?"]),
        (["passes=[{ mask = { ratio = 0.3 } }]"], ["'passes.0.mask.ways' is missing"]),
        (["terms=[{ name = 'a' }, { name = 'a' }]"], ["terms.name: a, a", "not all different"]),
        (["terms=[{}]"], ["'terms.0.name' is missing"]),
        (["mask.ratio=0"], ["terms.queries", "hides nothing"]),
    ],
)
def test_passes_and_terms_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(UsageError) as error:
        recipes.resolve("csfm", size="tiny", settings=settings)
    assert all(word in str(error.value) for word in words), str(error.value)


# Objectives over systems.

OWN = """
name = "own"
objective = "own"
paper = "none"
domains = ["eeg", "points", "cardiac"]
mask = { ratio = 0.3, ways = { blocks = 1.0 } }
optimizer = { clip_norm = 7.0 }

[[terms]]
name = "only"

[domain.points]
mask = { ratio = 0.4 }
training = { steps = 11 }

[domain.eeg]
loss = { kind = "l2" }

[size.tiny]
training = { steps = 22 }
decoder = { depth = 3 }
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.toml").write_text(OWN)
    return str(tmp_path / "own.toml")


@pytest.mark.parametrize("domain", ["eeg", "points", "cardiac"])
@pytest.mark.parametrize("size", [None, "tiny", "small"])
def test_an_objective_is_laid_over_a_domain_s_system_key_by_key(own, domain, size):
    system = recipes.resolve(recipes.SYSTEMS[domain], size=size).model_dump()
    ratio, steps = 0.3, system["training"]["steps"]
    if domain == "points":
        ratio, steps = 0.4, 11  # the domain's table over the objective's
    if domain == "eeg":
        system["loss"]["kind"] = "l2"
    if size == "tiny":
        steps, system["decoder"]["depth"] = 22, 3  # the size's over the domain's
    expected = system | {"name": "own", "objective": "own", "paper": "none", "domains": (domain,), "teacher": None}
    expected["mask"]["ratio"], expected["optimizer"]["clip_norm"], expected["training"]["steps"] = ratio, 7.0, steps
    expected["mask"]["ways"] = dict.fromkeys(expected["mask"]["ways"], 0.0) | {"blocks": 1.0}  # odds replace odds
    expected["passes"], expected["terms"] = (PassTable().model_dump(),), (TermTable(name="only").model_dump(),)  # never theirs
    assert recipes.resolve(own, size=size, domain=domain).model_dump() == expected


def test_settings_and_flags_win_over_every_layer_of_an_objective(own):
    def steps(**given):
        return recipes.resolve(own, size="tiny", domain="points", **given).training.steps

    assert steps() == 22
    assert steps(settings=["training.steps=33"]) == 33
    assert steps(settings=["training.steps=33"], flags={"training.steps": 44}) == 44


def test_an_encoder_or_tokens_of_another_kind_replace_the_system_s_whole(own, tmp_path):
    more = 'tokenizer = { kind = "voxels", side = 8, patch = 4 }\nencoder = { kind = "convnet", width = 8 }\n'
    (tmp_path / "conv.toml").write_text(
        OWN.replace("domains", 'embedding = { layer = -1, pool = "mean" }\n' + more + "domains", 1)
    )
    with pytest.raises(UsageError, match=r"'voxels' does not cut data.axes = 'signal'"):
        recipes.resolve(str(tmp_path / "conv.toml"), domain="eeg")
    recipe = recipes.resolve(str(tmp_path / "conv.toml"), domain="points", settings=["loss.kind=l2"])
    assert recipe.backend == "convnet" and recipe.encoder.model_dump() == {
        "kind": "convnet",
        "width": 8,
        "blocks": 2,
        "kernel": 3,
        "norm": "layer",
    }
    assert (recipe.tokenizer.kind, recipe.tokenizer.side) == ("voxels", 8)
    assert recipe.embedding.pool == "mean" and recipe.data == recipes.resolve("point-cmae").data


def test_domains_of_a_recipe_are_those_it_names_or_all(own, tmp_path):
    assert recipes.domains_of("csfm") == ("cardiac",) and recipes.domains_of(own) == ("eeg", "points", "cardiac")
    assert recipes.resolve(own) == recipes.resolve(own, domain="eeg")  # the first one where none is asked for
    (tmp_path / "any.toml").write_text("\n".join(line for line in OWN.splitlines() if not line.startswith("domains")))
    assert set(recipes.domains_of(str(tmp_path / "any.toml"))) == set(recipes.SYSTEMS)
    for domain in recipes.SYSTEMS:
        assert recipes.resolve(str(tmp_path / "any.toml"), domain=domain).domains == (domain,)
    with pytest.raises(UsageError, match=r"does not run on domain 'mri', but on eeg, points, cardiac"):
        recipes.resolve(own, domain="mri")
    with pytest.raises(UsageError, match="no recipe 'csfn'"):
        recipes.domains_of("csfn")


def test_sizes_of_an_objective_are_those_of_the_system(own):
    assert recipes.sizes(own) == recipes.sizes("reve")
    with pytest.raises(UsageError, match="no size 'huge'"):
        recipes.resolve(own, size="huge")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("domains = 3", ["domains", "3"]),
        ("domains = []", ["domains"]),
        ("domains = [1]", ["domains", "1"]),
        ('domains = "eeg"', ["domains", "'eeg'"]),
        ('domains = ["eg"]', ["'eg'", "eeg"]),
        ("[domain]\neeg = 3", ["domain", "3"]),
        ("[domain.eg]\nloss = { kind = 'l1' }", ["'eg'", "eeg"]),
        ("[size]\ntiny = 3", ["size", "3"]),
        ("[size.tny]\ntraining = { steps = 1 }", ["'tny'", "tiny"]),
        ('size = "tiny"', ["size", "'tiny'"]),
        ("mask = 3", ["'mask'", "3"]),
    ],
)
def test_an_objective_s_file_that_is_wrong_is_answered_by_one_sentence(wrong, words, tmp_path):
    head = 'name = "own"\nobjective = "own"\npaper = "none"\nterms = [{ name = "only" }]\n'
    (tmp_path / "wrong.toml").write_text(head + wrong + "\n")
    for size in (None, "tiny"):
        with pytest.raises(UsageError) as error:
            recipes.resolve(str(tmp_path / "wrong.toml"), size=size)
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
        ("csfn", ["no recipe 'csfn'", "Did you mean 'csfm'?"]),
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


def test_a_pooling_by_class_token_needs_one():
    with pytest.raises(UsageError, match=r"embedding.pool: 'classmax' needs encoder.class_token = true"):
        recipes.resolve("point-mae", settings=["embedding.pool=classmax"])


def test_a_preset_is_laid_over_the_size_and_a_setting_over_the_preset():
    assert recipes.presets("bird-mae") == ["paper"] and recipes.presets("point-mae") == []
    plain, paper = (recipes.resolve("bird-mae", size="tiny", preset=preset) for preset in (None, "paper"))
    assert plain.mask.ways.gaps > 0 and paper.mask.ways.model_dump(exclude_defaults=True) == {"random": 1.0}
    assert plain.terms[0].target == "raw" and paper.terms[0].target == "patch_norm"
    assert paper.model_copy(update={"mask": plain.mask, "terms": plain.terms}) == plain
    assert recipes.resolve("bird-mae", preset="paper", settings=["mask.ratio=0.5"]).mask.ratio == 0.5
    with pytest.raises(UsageError, match=r"no preset 'papre'. Did you mean 'paper'"):
        recipes.resolve("bird-mae", preset="papre")
    with pytest.raises(UsageError, match=r"no preset 'paper'. It has none"):
        recipes.resolve("point-mae", preset="paper")
