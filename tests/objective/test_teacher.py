"""Teachers: without gradient, after their schedule, whatever the optimizer does."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from tests.objective.makers import CPU, SUBJECTS, engine, ready, small, synthetic
from toolkit import recipe as recipes
from toolkit.model import masked, tokenizers
from toolkit.objective.objective import Objective
from toolkit.objective.targets import Latent, Pooled
from toolkit.recipe import Recipe
from toolkit.training import optimizer

TEACHERS = {name: recipes.resolve(name).teacher for name in recipes.names()}
TAUGHT = [name for name, table in TEACHERS.items() if table is not None and table.kind != "image"]  # see tests/test_i2p.py
ON = dict(zip(TAUGHT, ("eeg", "points", "mri", "audio", "cardiac") * 2, strict=False))
FOLLOWED = [name for name in TAUGHT if small(name, ON[name]).teacher.kind == "ema"]


def step(objective: Objective, recipe: Recipe, adam: torch.optim.Optimizer, number: int, *, follow: bool = True) -> None:
    """One step of the training loop."""
    scored = objective(synthetic(recipe, seed=number), number, CPU)
    adam.zero_grad(set_to_none=True)
    scored.loss.backward()
    adam.step()
    if follow:
        objective.after_step(number)


def fixed_of(objective: Objective) -> list[nn.Parameter]:
    """Every parameter that must not learn: of the teacher, and of what follows beside it."""
    beside = [p for target in objective.targets if isinstance(target, Pooled) for p in target.follows.parameters()]
    return [*objective.teacher.parameters(), *beside]


def test_every_kind_of_teacher_is_tried_here():
    assert {small(name, ON[name]).teacher.kind for name in TAUGHT} == {"ema", "copy", "frozen"}


@pytest.mark.parametrize("name", TAUGHT)
def test_no_gradient_and_no_optimizer_reach_a_teacher(name):
    recipe = small(name, ON[name])
    objective = engine(recipe)
    adam = optimizer.build(objective, recipe)
    used = [(n, p) for n, p in objective.model.encoder.named_parameters() if p.requires_grad]
    # Not all contrasts that have a projection are in a batch.
    fixed, moving = fixed_of(objective), [p for n, p in used if not n.startswith("embed_patch.")]
    assert bool(fixed) == (recipe.teacher.kind != "copy")
    before, started = copy.deepcopy(fixed), copy.deepcopy(moving)
    for number in range(3):
        step(objective, recipe, adam, number, follow=False)
    assert all(p.grad is None and not p.requires_grad for p in fixed)
    assert all(torch.equal(a, b) for a, b in zip(fixed, before, strict=True))
    assert not {id(p) for g in adam.param_groups for p in g["params"]} & {id(p) for p in fixed}
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in moving)  # the student does get one
    assert not any(torch.equal(a, b) for a, b in zip(moving, started, strict=True))


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_teacher_follows_its_schedule(name):
    """teacher = rate x teacher + (1 - rate) x student, the rate in a straight line from start to end, in float64."""
    recipe = small(name, ON[name], training__steps=5, teacher__start=0.5, teacher__end=0.9)
    objective = engine(recipe)
    adam = optimizer.build(objective, recipe)
    pairs = [(objective.model.encoder, objective.teacher.encoder)]
    pairs += [(t.project, t.follows) for t in objective.targets if isinstance(t, Pooled)]
    truth = [[p.detach().double() for p in teacher.parameters()] for _, teacher in pairs]
    for number, rate in enumerate((0.58, 0.66, 0.74, 0.82, 0.9)):
        step(objective, recipe, adam, number)
        for (student, teacher), values in zip(pairs, truth, strict=True):
            values[:] = [rate * v + (1 - rate) * p.detach().double() for v, p in zip(values, student.parameters(), strict=True)]
            for found, expected in zip(teacher.parameters(), values, strict=True):
                torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)
    mine, theirs = (encoder.blocks[0].norm1.weight for encoder in pairs[0])
    assert not torch.allclose(mine, theirs, atol=1e-4)


def test_a_projector_that_is_followed_was_the_same_to_begin_with():
    _, objective, _ = ready("byol", "eeg")
    for target in objective.targets:
        for mine, theirs in zip(target.project.parameters(), target.follows.parameters(), strict=True):
            assert torch.equal(mine, theirs) and mine is not theirs
    assert [len(target.followed()) for target in objective.targets] == [1, 1]


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_resumed_run_has_its_teacher(name):
    recipe = small(name, ON[name], training__steps=5, teacher__start=0.5)
    objective = engine(recipe)
    adam = optimizer.build(objective, recipe)
    for number in range(2):
        step(objective, recipe, adam, number)
    again = engine(recipe, seed=7)
    again.load_state_dict(objective.state_dict())
    batch = synthetic(recipe, seed=5)
    assert torch.equal(again(batch, 3, CPU).loss, objective(batch, 3, CPU).loss)
    assert not any("teacher" in key for key in objective.model.state_dict())  # what a run leaves is the student


def test_a_copy_is_the_student_s_own_weights_without_gradient():
    recipe = small("cae", "cardiac")
    objective, batch = engine(recipe), synthetic(recipe)
    tokens = tokenizers.build(recipe).tokenize(batch)
    index = torch.arange(5).expand(len(tokens.patches), -1)
    taught, own = objective.teacher.states(tokens, index).last, objective.model.encoder(tokens, index).last
    assert torch.equal(taught, own) and own.requires_grad and not taught.requires_grad
    with torch.no_grad():
        objective.model.encoder.norm.weight.mul_(2.0)
        assert torch.equal(objective.teacher.states(tokens, index).last, objective.model.encoder(tokens, index).last)
    assert not list(objective.teacher.parameters())  # nothing counted or saved twice


def test_a_teacher_stays_in_evaluation_mode():
    _, objective, _ = ready("data2vec2", "eeg")
    objective.train()
    assert objective.model.training and not any(part.training for part in objective.teacher.modules())


def test_a_student_of_another_width_imitates_through_a_linear_layer():
    recipe, wide = small("distill", "mri"), small("distill", "mri", encoder__width=48, encoder__heads=3, encoder__mlp=96)
    frozen = masked.build(wide, seed=9).encoder
    before = copy.deepcopy(frozen.state_dict())
    objective = Objective(recipe, masked.build(recipe), tokenizers.build(recipe), SUBJECTS, frozen, 48).train()
    adapt = objective.targets[0].adapt
    assert isinstance(adapt, nn.Linear) and adapt.weight.shape == (48, 32)
    adam = optimizer.build(objective, recipe)
    for number in range(2):
        step(objective, recipe, adam, number)
    assert adapt.weight.grad.abs().sum() > 0 and objective.model.encoder.norm.weight.grad.abs().sum() > 0
    assert all(torch.equal(value, frozen.state_dict()[key]) for key, value in before.items())


def test_equal_widths_need_no_layer_between():
    assert all(isinstance(t.adapt, nn.Identity) for t in ready("distill", "eeg")[1].targets if isinstance(t, Latent))


@pytest.mark.parametrize(("norm", "axis"), [("layer", 2), ("instance", 1)])
def test_a_latent_target_is_the_mean_of_its_last_layers_each_normalised(norm, axis):
    """Against float64 sums over the teacher's own layers."""
    changes = {"terms__0__layers": 2, "terms__0__norm": norm, "data__scaling": "kind"}
    recipe = small("data2vec2", "eeg", passes=[{"repeat": 1}], **changes)
    objective = engine(recipe)
    batch, kept = synthetic(recipe), []
    hook = objective.targets[0].register_forward_hook(lambda part, given, found: kept.append((given, found)))
    objective(batch, 0, CPU)
    hook.remove()
    (scene, prediction, _), compared = kept[0]
    view = scene.views[0]  # the teacher sees it in the unit of all of it, as a student that sees all does
    unit = view.patches.double().square().mean((1, 2), keepdim=True).sqrt().clamp(min=0.25)
    view = dataclasses.replace(view, patches=(view.patches / unit).float())
    layers = [layer.double() for layer in objective.teacher.states(view).layers[-2:]]
    normed = [(x - x.mean(axis, keepdim=True)) / (x.var(axis, correction=0, keepdim=True) + 1e-5).sqrt() for x in layers]
    expected = torch.stack(normed).mean(0).gather(1, prediction.queries[..., None].expand(-1, -1, 32))
    torch.testing.assert_close(compared.target.double(), expected, rtol=0, atol=1e-5)
    assert not compared.target.requires_grad and compared.predicted.requires_grad
