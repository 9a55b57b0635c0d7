"""What a run writes down as it goes: metrics.jsonl, the progress line, the summary."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit import files
from toolkit.errors import ToolkitError
from toolkit.objective.objective import Scored, TermScore
from toolkit.recipe import Recipe

METRICS = "metrics.jsonl"
SETTLED = 0.1  # share of a run after which a state that does not vary is no longer a start
LEAST_TARGET, LEAST_PREDICTED, LEAST_RANK = 0.1, 0.01, 1.5


@dataclass(frozen=True)
class Summary:
    """How a run ended. ``loss`` is the mean over the last tenth of the logged steps."""

    steps: int
    loss: float
    trivial: float
    samples_per_s: float
    seconds: float


class Meter:
    """Averages between log lines and appends to metrics.jsonl."""

    def __init__(self, path: Path, first: int, recipe: Recipe) -> None:
        self.path, self.first, self.recipe, self.batch_size = path, first, recipe, recipe.training.batch_size
        self.began = self.logged = time.monotonic()
        self.rows: list[dict[str, Any]] = []
        self.detail: Scored | None = None
        self.line = ""

    def __enter__(self) -> Meter:
        self.handle = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *problem: object) -> None:
        with contextlib.suppress(OSError):  # every line was flushed; a full disk was told then
            self.handle.close()

    def add(self, step: int, scored: Scored, norm: float, waited: float, rate: float) -> None:
        """Take one step's figures."""
        self.rows.append(
            {
                "step": step,
                "loss": float(scored.loss.detach()),
                "loss_trivial": float(scored.trivial.detach()),
                "terms": {name: (float(term.loss.detach()), float(term.trivial)) for name, term in scored.terms.items()},
                "learning_rate": rate,
                "grad_norm": norm,
                "waited": waited,
            }
        )
        self.detail = scored

    def log(self) -> None:
        """Write one line: means since the last one, and the detail of the last step."""
        now = time.monotonic()
        seconds = max(now - self.logged, 1e-9)
        mean = {k: sum(r[k] for r in self.rows) / len(self.rows) for k in ("loss", "loss_trivial", "grad_norm")}
        row = {
            "step": self.rows[-1]["step"],
            **{k: round(v, 6) for k, v in mean.items()},
            "learning_rate": self.rows[-1]["learning_rate"],
            "samples_per_s": round(self.batch_size * len(self.rows) / seconds, 2),
            "data_wait": round(sum(r["waited"] for r in self.rows) / seconds, 4),
            **self._details(),
        }
        try:
            print(json.dumps(row), file=self.handle, flush=True)
        except OSError as problem:
            raise ToolkitError(
                f"'{self.path}' could not be written: {problem.strerror}. Free space, then continue from the last "
                "checkpoint with --resume."
            ) from None
        self.line = progress_line(row)
        self.rows, self.logged = [], now

    def _details(self) -> dict[str, Any]:
        assert self.detail is not None
        scores = self.detail.terms
        terms: dict[str, dict[str, float]] = {}
        for name, score in scores.items():
            loss, trivial = (sum(r["terms"][name][k] for r in self.rows) / len(self.rows) for k in (0, 1))
            terms[name] = {"loss": round(loss, 6), "trivial": round(trivial, 6)}
            if score.copy is not None:
                terms[name]["copy"] = round(score.copy, 6)
        deviations = {
            name: {"predicted": round(score.predicted, 6), "target": round(score.target, 6)}
            for name, score in scores.items()
            if score.predicted is not None and score.target is not None
        }
        found: dict[str, Any] = {"terms": terms, "deviation": deviations}
        if self.detail.rank is not None:
            found["rank"] = round(self.detail.rank, 2)
        if self.detail.salient is not None:
            found["salient"] = dict(zip(("visible", "random"), (round(x, 4) for x in self.detail.salient), strict=True))
        return found | {"collapsed": collapsed(self.rows[-1]["step"] / self.recipe.training.steps, scores, self.detail.rank)}

    def summary(self, steps: int) -> Summary:
        """The figures of the whole run, the loss from every line of the log."""
        history = read_metrics(self.path.parent)
        last = history[-max(1, len(history) // 10) :]
        seconds = time.monotonic() - self.began
        loss, trivial = (sum(r[k] for r in last) / max(1, len(last)) for k in ("loss", "loss_trivial"))
        return Summary(steps, loss, trivial, self.batch_size * (steps - self.first) / max(seconds, 1e-9), seconds)


def collapsed(done: float, scores: Mapping[str, TermScore], rank: float | None) -> list[str]:
    """Terms whose targets are made by weights and have become (nearly) the same for all tokens, or their predictions have;
    and ``encoder``, where its states have.

    data2vec 2.0's released code stops a run whose targets deviate by less than 0.1 or whose predictions by less than 0.01,
    after 5,000 steps; here they are named, from a tenth of the run on.
    """
    if done < SETTLED:
        return []
    found = [
        name
        for name, score in scores.items()
        if score.learned
        and score.target is not None
        and score.predicted is not None
        and (score.predicted < LEAST_PREDICTED * score.target or score.target < LEAST_TARGET)
    ]
    return found + (["encoder"] if rank is not None and rank < LEAST_RANK else [])


def progress_line(row: Mapping[str, Any]) -> str:
    """A line of metrics.jsonl in words."""
    each = ""
    if len(row["terms"]) > 1:
        each = "; " + ", ".join(f"{name} {t['loss']:.3f} ({t['trivial']:.3f})" for name, t in row["terms"].items())
    warning = f"; COLLAPSING: {', '.join(row['collapsed'])} no longer varies" if row["collapsed"] else ""
    salient = ""
    if "salient" in row:
        kept, random = (100 * row["salient"][key] for key in ("visible", "random"))
        salient = f"; salient tokens {kept:.0f} % visible ({random:.0f} % at random)"
    return (
        f"loss {row['loss']:.4f} (trivial {row['loss_trivial']:.4f}){each}; rank {row.get('rank', float('nan')):.1f}, "
        f"{row['samples_per_s']:.1f} samples/s, data wait {100 * row['data_wait']:.0f} %{salient}{warning}"
    )


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; the last line of a killed run may be cut and is then left out."""
    rows = []
    for line in (run / METRICS).read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def keep_lines(path: Path, step: int) -> None:
    """Drop the lines of metrics.jsonl that a killed run wrote after the checkpoint at ``step``."""
    if not path.exists():
        return
    kept = [json.dumps(row) + "\n" for row in read_metrics(path.parent) if row["step"] <= step]
    files.write_text(path, "".join(kept))
