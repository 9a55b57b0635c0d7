"""What every table of a recipe is: strict, frozen, numbers with limits."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Odds = Annotated[float, Field(ge=0)]
Periods = tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat]


class Table(BaseModel):
    """A strict TOML table: unknown keys and wrong types are errors; frozen once built."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _integers_are_numbers(cls, table: Any) -> Any:
        # TOML writes 250 where a float is meant, and has lists where the model keeps tuples.
        if not isinstance(table, dict):
            return table
        wants_float = {k for k, f in cls.model_fields.items() if f.annotation is float}
        return {k: float(v) if k in wants_float and type(v) is int else _as_tuple(v) for k, v in table.items()}


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list) else value
