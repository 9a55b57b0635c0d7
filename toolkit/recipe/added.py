"""One objective on top of another: its passes and terms appended to those of a recipe."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from toolkit.errors import UsageError

OWN = ("name", "domains", "objective", "paper", "mask", "passes", "terms", "teacher")  # keys that an added objective may have
NAMED = ("name", "objective", "paper")


def appended(base: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a recipe with the passes and terms of another objective after its own; both tables name theirs.

    Of terms of one name the recipe's stays, so that what both would reconstruct is reconstructed once. Passes that no added
    term looks at are left out, and the others are numbered on from the recipe's; a pass without a mask keeps that of its
    objective on its own. Raises UsageError where both cannot be had.
    """
    names = f"'{added['name']}' cannot be added to recipe '{base['name']}'"
    for key in added:
        if key not in OWN and added[key] != base.get(key):
            raise UsageError(f"{names}: it sets {key}, of which a run has one. Set it for the whole run: --set {key}.KEY=VALUE.")
    teacher = added.get("teacher", base.get("teacher"))
    if teacher != base.get("teacher", teacher):
        raise UsageError(f"{names}: their teachers differ, {dict(base['teacher'])} and {dict(teacher)}; a run has one.")
    known = {term["name"] for term in base["terms"]}
    terms = [copy.deepcopy(dict(term)) for term in added["terms"] if term["name"] not in known]
    if not terms:
        raise UsageError(f"{names}: all its terms are there already.")
    used = sorted({number for term in terms for number in _looked_at(term)})
    place = {number: len(base["passes"]) + k for k, number in enumerate(used)}
    for term in terms:
        term["on"] = place[term.get("on", 0)]
        term |= {key: place[term[key]] for key in ("beside", "truth") if key in term}
    passes = [_masked(added["passes"][number], base, added) for number in used]
    whole = dict(base) | {key: f"{base[key]} + {added[key]}" for key in NAMED}
    whole |= {"name": f"{base['name']}+{added['name']}", "passes": [*base["passes"], *passes], "terms": [*base["terms"], *terms]}
    return whole | ({} if teacher is None else {"teacher": teacher})


def _looked_at(term: Mapping[str, Any]) -> list[int]:
    return [term.get("on", 0), *(term[key] for key in ("beside", "truth") if key in term)]


def _masked(one: Mapping[str, Any], base: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """A pass of the added objective with the mask that it has there."""
    return dict(one) if "mask" in one or added["mask"] == base["mask"] else dict(one) | {"mask": added["mask"]}
