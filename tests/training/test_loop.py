import copy
import dataclasses
import json
import math
import os
import resource
import shutil
import signal

import numpy as np
import pytest
import torch
from safetensors import safe_open

from readers.schema import ReadError
from tests.conftest import TINY
from toolkit import recipe as recipes
from toolkit.corpus.batches import BatchSampler
from toolkit.errors import Interrupted, ToolkitError, UsageError
from toolkit.interrupts import StopSignals
from toolkit.model import folder, masked
from toolkit.progress import Progress
from toolkit.training import checkpoint, loop
from toolkit.training.loop import Trainer
from toolkit.training.meter import METRICS, keep_lines, read_metrics
from toolkit.training.run import Job

CPU = torch.device("cpu")


class Sampler(BatchSampler):
    """Does something when the batch of a step is asked for."""

    def __init__(self, sources, recipe, step=None, act=None):
        super().__init__(sources, recipe)
        self.step, self.act = step, act

    def batch(self, step):
        batch = super().batch(step)
        return (self.act(batch) or batch) if step == self.step else batch


def train(run, recipe, sources, *, resume=False, step=None, act=None, workers=1):
    """Train in a folder; ``act`` on the batch of ``step`` (counted from 0)."""
    run.mkdir(exist_ok=True)
    trainer = Trainer(recipe, masked.build(recipe), Sampler(sources, recipe, step, act), run, device=CPU, workers=workers)
    if resume:
        trainer.resume()
    with StopSignals() as stop, Progress("train", recipe.training.steps, "steps", enabled=False) as progress:
        return trainer, trainer.train(progress, stop)


def weights(run):
    return (run / folder.WEIGHTS).read_bytes()


def lines(run):
    """The log without what depends on the clock."""
    return [{k: v for k, v in row.items() if k not in ("samples_per_s", "data_wait")} for row in read_metrics(run)]


def fail(batch):
    raise KeyError("killed")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, sources, tiny):
    """Eight steps without a stop."""
    run = tmp_path_factory.mktemp("whole")
    return run, train(run, tiny(), sources)[1]


def test_a_run_logs_every_second_step_and_keeps_two_checkpoints(whole, tiny):
    run, summary = whole
    assert [row["step"] for row in lines(run)] == [2, 4, 6, 8]
    assert [p.name for p in checkpoint.found(run)] == ["step-00000006.safetensors", "step-00000008.safetensors"]
    assert summary.steps == 8 and summary.loss == lines(run)[-1]["loss"] and summary.samples_per_s > 0
    figures = {"step", "loss", "loss_trivial", "learning_rate", "grad_norm", "rank"}
    assert figures | {"terms", "deviation", "collapsed"} == set(lines(run)[0])
    for row in read_metrics(run):
        (term,), (spread,) = row["terms"].values(), row["deviation"].values()
        assert set(term) == {"loss", "trivial", "copy"} and set(spread) == {"predicted", "target"}
        assert (term["loss"], term["trivial"]) == (row["loss"], row["loss_trivial"])  # one term of weight 1
        assert all(math.isfinite(v) for part in (row, term, spread) for k, v in part.items() if isinstance(v, float))
        assert 1 <= row["rank"] <= 32 and row["collapsed"] == []
    initial = masked.build(tiny()).state_dict()
    with safe_open(run / folder.WEIGHTS, "pt") as saved, safe_open(checkpoint.found(run)[-1], "pt") as last:
        for key, value in initial.items():
            assert torch.equal(saved.get_tensor(key), last.get_tensor(f"model.model.{key}"))
            assert not torch.equal(saved.get_tensor(key), value), key  # every parameter was trained


@pytest.mark.parametrize("workers", [1, 3])
def test_the_same_seed_gives_the_same_weights_however_many_read_ahead(whole, tmp_path, sources, tiny, workers):
    torch.manual_seed(workers)  # the global random state has no part in it
    train(tmp_path / "run", tiny(), sources, workers=workers)
    assert weights(tmp_path / "run") == weights(whole[0]) and lines(tmp_path / "run") == lines(whole[0])


def test_another_seed_gives_other_weights(whole, tmp_path, sources, tiny):
    train(tmp_path / "run", tiny(training__seed=4), sources)
    assert weights(tmp_path / "run") != weights(whole[0])


@pytest.mark.parametrize("killed_at", [1, 5, 7])
def test_a_killed_run_resumes_to_the_same_bits(whole, tmp_path, sources, tiny, killed_at):
    run = tmp_path / "run"
    with pytest.raises(KeyError):
        train(run, tiny(), sources, step=killed_at, act=fail)
    assert not (run / folder.WEIGHTS).exists()
    train(run, tiny(), sources, resume=True)
    assert weights(run) == weights(whole[0]) and lines(run) == lines(whole[0])


@pytest.mark.parametrize("name", ["data2vec2", "hubert", "byol"])
def test_a_teacher_and_codes_that_were_fitted_go_on_to_the_same_bits_too(tmp_path, sources, name):
    """A teacher that follows, codes fitted before the first step, and pairs of windows with a projection that follows."""
    recipe = recipes.resolve(name, size="tiny", domain="cardiac", flags=copy.deepcopy(TINY))
    train(tmp_path / "whole", recipe, sources)
    with pytest.raises(KeyError):
        train(tmp_path / "halves", recipe, sources, step=5, act=fail)
    trainer, _ = train(tmp_path / "halves", recipe, sources, resume=True)
    assert weights(tmp_path / "halves") == weights(tmp_path / "whole")
    assert lines(tmp_path / "halves") == lines(tmp_path / "whole")
    with safe_open(checkpoint.found(tmp_path / "whole")[-1], "pt") as whole:
        mine = trainer.objective.state_dict()
        assert {k.removeprefix("model.") for k in whole.keys() if k.startswith("model.")} == set(mine)  # noqa: SIM118
        assert all(torch.equal(value, whole.get_tensor(f"model.{key}")) for key, value in mine.items())
    saved = safe_open(tmp_path / "whole" / folder.WEIGHTS, "pt").keys()
    assert set(saved) == set(trainer.model.state_dict())  # the model alone is what others load


def test_lines_after_the_checkpoint_and_a_cut_line_are_not_kept_twice(whole, tmp_path, sources, tiny):
    run, recipe = tmp_path / "run", tiny(training__checkpoint_every=4, training__log_every=1)
    with pytest.raises(KeyError):
        train(run, recipe, sources, step=7, act=fail)
    assert [row["step"] for row in lines(run)] == [1, 2, 3, 4, 5, 6, 7]
    with (run / METRICS).open("a") as log:
        log.write('{"step": 8, "lo')
    train(run, recipe, sources, resume=True)
    assert [json.loads(line)["step"] for line in (run / METRICS).read_text().splitlines()] == list(range(1, 9))
    assert weights(run) == weights(whole[0])


def test_a_finished_run_resumed_stays_what_it_is(whole, tmp_path, sources, tiny):
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    _, summary = train(run, tiny(), sources, resume=True)
    assert weights(run) == weights(whole[0]) and lines(run) == lines(whole[0]) and summary.loss == whole[1].loss


def test_a_checkpoint_that_is_damaged_is_named_and_the_one_before_continues(whole, tmp_path, sources, tiny):
    run = tmp_path / "run"
    with pytest.raises(KeyError):
        train(run, tiny(), sources, step=6, act=fail)
    newest = checkpoint.found(run)[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.raises(ToolkitError, match=rf"{newest.name}.*cannot be read.*the one before"):
        train(run, tiny(), sources, resume=True)
    newest.unlink()
    train(run, tiny(), sources, resume=True)
    assert weights(run) == weights(whole[0])


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e30])
def test_a_loss_that_is_not_finite_names_step_and_files_and_touches_no_weight(tmp_path, sources, tiny, junk, monkeypatch):
    run, recipe, held = tmp_path, tiny(), {}

    def spoil(batch):
        return dataclasses.replace(batch, values=np.full_like(batch.values, junk))

    def build(recipe, made=masked.build):
        held["model"] = made(recipe)
        return held["model"]

    monkeypatch.setattr(masked, "build", build)
    with pytest.raises(ToolkitError) as error:
        train(run, recipe, sources, step=6, act=spoil)
    files = dict.fromkeys(BatchSampler(sources, recipe).batch(6).sources)
    assert all(word in str(error.value) for word in ("step 7", "not touched", *files)) and error.value.exit_code == 1
    assert not any(str(s.recording.path) in str(error.value) for s in sources if str(s.recording.path) not in files)
    with safe_open(checkpoint.found(run)[-1], "pt") as last:  # written after step 6
        assert last.metadata()["position"].startswith('{"step": 6,')
        assert all(torch.equal(v, last.get_tensor(f"model.model.{k}")) for k, v in held["model"].state_dict().items())


def test_a_file_that_can_no_longer_be_read_is_named_and_the_run_can_go_on(whole, tmp_path, sources, tiny):
    def vanish(batch):
        raise ReadError("r1.dat does not exist")

    with pytest.raises(ToolkitError, match=r"step 6 .*r1\.dat does not exist.*--resume"):
        train(tmp_path, tiny(), sources, step=5, act=vanish)
    train(tmp_path, tiny(), sources, resume=True)
    assert weights(tmp_path) == weights(whole[0])


def limited(run):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture
def unlimited_after():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_older_checkpoint_usable(whole, tmp_path, sources, tiny, unlimited_after):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(ToolkitError, match=r"step-00000006\.safetensors' could not be written: .*File too large"):
        train(tmp_path, tiny(), sources, step=5, act=limited)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000002.safetensors", "step-00000004.safetensors"]
    train(tmp_path, tiny(), sources, resume=True)
    assert weights(tmp_path) == weights(whole[0]) and lines(tmp_path) == lines(whole[0])


def test_a_full_disk_under_the_log_is_one_paragraph_too(tmp_path, sources, tiny, monkeypatch):
    monkeypatch.setattr(loop, "METRICS", "/dev/full")
    with pytest.raises(ToolkitError, match=r"/dev/full' could not be written: No space left on device"):
        train(tmp_path, tiny(), sources)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint_that_continues_to_the_same_bits(whole, tmp_path, sources, tiny, number, code):
    recipe, done = tiny(training__checkpoint_every=100), []
    trainer = None

    class Stopping(Progress):
        def update(self, step, note=""):
            done.append(step)
            if step == 5:
                os.kill(os.getpid(), number)

    trainer = Trainer(recipe, masked.build(recipe), BatchSampler(sources, recipe), tmp_path, device=CPU)
    with pytest.raises(Interrupted, match=r"step-00000005.*--resume") as error, StopSignals() as stop:
        trainer.train(Stopping("train", 8, "steps", enabled=False), stop)
    assert error.value.exit_code == code and done == [1, 2, 3, 4, 5]
    assert [p.name for p in checkpoint.found(tmp_path)] == ["step-00000005.safetensors"]
    train(tmp_path, recipe, sources, resume=True)
    assert weights(tmp_path) == weights(whole[0])


def test_a_checkpoint_holds_position_optimizer_and_random_state(whole, sources, tiny):
    path = checkpoint.found(whole[0])[-1]
    model = masked.build(tiny(), 77)
    trainer = Trainer(tiny(), model, BatchSampler(sources, tiny()), whole[0], device=CPU)
    torch.manual_seed(5)
    position = checkpoint.load(path, trainer.objective, trainer.optimizer)
    assert position.step == 8 and position.recipe == trainer.position.recipe
    with safe_open(path, "pt") as saved:
        assert torch.equal(torch.get_rng_state(), saved.get_tensor("random.cpu"))
        for index, slots in trainer.optimizer.state_dict()["state"].items():
            assert set(slots) == {"step", "exp_avg", "exp_avg_sq"} and float(slots["step"]) == 8
            assert all(torch.equal(slots[name], saved.get_tensor(f"optimizer.{index}.{name}")) for name in slots)


def test_keeping_lines_of_no_log_makes_none(tmp_path):
    keep_lines(tmp_path / METRICS, 3)
    assert not list(tmp_path.iterdir())


def job(sources, recipe, out):
    return Job(recipe, sources, [], out, device=CPU, bf16=False, workers=1)


def run_job(made):
    with StopSignals() as stop, Progress("train", 8, "steps", enabled=False) as progress:
        return made.run(progress, stop)


def test_a_job_leaves_a_model_that_loads_with_its_record(tmp_path, sources, tiny):
    made = job(sources, tiny(), tmp_path / "run")
    made.prepare(init=None, resume=False, overwrite=False)
    facts = run_job(made)
    assert {"run", "steps", "loss", "samples_per_s", "peak_memory_mb", "seconds"} <= set(facts) and facts["steps"] == 8
    model = folder.load(tmp_path / "run")
    assert model.recipe == tiny() and set(model.channels) >= {"II", "PPG", "V5"}
    record = json.loads((tmp_path / "run" / folder.RUN).read_text())
    assert record["exit"] == 0 and record["model_hash"] == model.hash and record["seed"] == 3 and record["input_hash"]
    with pytest.raises(UsageError, match="exists"):
        job(sources, tiny(), tmp_path / "run").prepare(init=None, resume=False, overwrite=False)


def test_a_resumed_job_must_be_the_same_run(tmp_path, sources, tiny):
    job(sources, tiny(), tmp_path / "run").prepare(init=None, resume=False, overwrite=False)
    with pytest.raises(UsageError, match=r"another recipe: there 'seed = 3', now 'seed = 4'.*--init"):
        job(sources, tiny(training__seed=4), tmp_path / "run").prepare(init=None, resume=True, overwrite=False)
    with pytest.raises(UsageError, match=r"other data .*--init"):
        job(sources[:2], tiny(), tmp_path / "run").prepare(init=None, resume=True, overwrite=False)
    job(sources, tiny(), tmp_path / "run").prepare(init=None, resume=True, overwrite=False)


def test_init_starts_from_the_weights_of_another_model_and_refuses_another_shape(whole, tmp_path, sources, tiny):
    made = job(sources, tiny(training__seed=9), tmp_path / "run")
    made.prepare(init=whole[0], resume=False, overwrite=False)
    with safe_open(whole[0] / folder.WEIGHTS, "pt") as saved:
        assert all(torch.equal(v, saved.get_tensor(k)) for k, v in made.trainer.model.state_dict().items())
    assert made.fresh == []
    with pytest.raises(UsageError, match="has shape"):
        job(sources, tiny(tokenizer__patch=20), tmp_path / "other").prepare(init=whole[0], resume=False, overwrite=False)
    assert not (tmp_path / "other").exists()


def test_init_of_another_objective_takes_the_encoder_and_names_what_is_fresh(whole, tmp_path, sources):
    flags = {key: value for key, value in copy.deepcopy(TINY).items() if key != "terms"}
    recipe = recipes.resolve("hubert", size="tiny", domain="cardiac", flags=flags)
    made = job(sources, recipe, tmp_path / "run")
    made.prepare(init=whole[0], resume=False, overwrite=False)
    taken, fresh = made.trainer.model.state_dict(), masked.build(recipe).state_dict()
    with safe_open(whole[0] / folder.WEIGHTS, "pt") as saved:
        for key, value in taken.items():
            assert torch.equal(value, saved.get_tensor(key) if key.startswith("encoder.") else fresh[key]), key
    rest = {key for key in fresh if not key.startswith("encoder.")}
    assert rest and rest == {key for key in fresh for part in made.fresh if key == part or key.rpartition(".")[0] == part}


def test_a_failed_job_says_so_in_its_record(tmp_path, sources, tiny):
    made = job(sources, tiny(), tmp_path / "run")
    made.prepare(init=None, resume=False, overwrite=False)
    made.trainer.sampler = Sampler(sources, tiny(), 3, lambda b: dataclasses.replace(b, values=b.values * np.float32(np.nan)))
    with pytest.raises(ToolkitError, match="step 4"):
        run_job(made)
    record = json.loads((tmp_path / "run" / folder.RUN).read_text())
    assert record["exit"] == 1 and "step 4" in record["error"]
    assert not (tmp_path / "run" / folder.WEIGHTS).exists()
