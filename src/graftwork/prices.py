"""What hardware costs an hour, and what it computes at most: one YAML file that everybody edits for himself."""

from __future__ import annotations

from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from graftwork.errors import NotFound, Problem, SettingsInvalid

HERE = "here"
"""The machine that this runs on: what it computes is measured."""

HOURS_A_MONTH = 730.0


class Hardware(BaseModel):
    """A machine that can be hired.

    Attributes:
        title: what people call it.
        hourly: price of an hour; None where nobody has said it.
        price_source: where the price is listed.
        peak_tflops: 1e12 operations a second in matrix products at most, published; None for the machine at hand.
        dtype: what the peak is for.
        peak_source: who published it.
        utilisation: share of the peak that is taken to be reached.
        step_ms: milliseconds that an optimizer step or a batch takes at least.
        memory_gb: 1e9 bytes of memory that models have room in; None for the machine at hand.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    hourly: float | None = Field(None, ge=0, allow_inf_nan=False)
    price_source: str = ""
    peak_tflops: float | None = Field(None, gt=0, allow_inf_nan=False)
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    peak_source: str = ""
    utilisation: float = Field(0.25, gt=0, le=1)
    step_ms: float = Field(0.0, ge=0, allow_inf_nan=False)
    memory_gb: float | None = Field(None, gt=0, allow_inf_nan=False)

    @property
    def flops_per_second(self) -> float | None:
        """Operations a second in matrix products that it is taken to reach; None where that is measured."""
        return None if self.peak_tflops is None else self.peak_tflops * 1e12 * self.utilisation

    def price(self, seconds: float) -> float | None:
        """Price of so many seconds; None where no price is known.

        Example:
            >>> Hardware(title="x", hourly=1.8).price(20)
            0.01
        """
        return None if self.hourly is None else self.hourly * seconds / 3600


class Prices(BaseModel):
    """The prices of a day.

    Attributes:
        date: when they were looked up.
        currency: of all prices.
        note: what is to be said of them.
        hardware: by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    date: date
    currency: str = "USD"
    note: str = ""
    hardware: dict[str, Hardware] = Field(min_length=1)

    @model_validator(mode="after")
    def _known_speed(self) -> Prices:
        missing = [name for name, one in self.hardware.items() if name != HERE and one.peak_tflops is None]
        if missing:
            raise ValueError(f"{', '.join(missing)}: peak_tflops is missing; only {HERE!r} is measured")
        return self

    def chosen(self, names: list[str] | None) -> dict[str, Hardware]:
        """Hardware by name, in the order asked for; all of it by default.

        Raises:
            NotFound: with every name that the file does not hold.
        """
        unknown = [name for name in names or () if name not in self.hardware]
        if unknown:
            raise NotFound(
                f"no such hardware: {', '.join(unknown)}",
                remedy=f"The prices know {', '.join(self.hardware)}; --prices FILE names a file of your own.",
            )
        return {name: self.hardware[name] for name in names or self.hardware}


def read_prices(file: Path | None = None) -> Prices:
    """The prices of a file; those that came with the package by default.

    Raises:
        SettingsInvalid: with every mistake listed.
    """
    import yaml

    source = "prices.yaml" if file is None else str(file)
    try:
        text = (files("graftwork") / "prices.yaml" if file is None else file).read_text(encoding="utf-8")
        content: Any = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsInvalid(
            f"the prices in {source} cannot be read",
            problems=[Problem(source, " ".join(str(error).split()))],
            remedy="Give a YAML file such as the one that comes with the package (graft cost --show-prices prints it).",
        ) from error
    try:
        return Prices.model_validate(content)
    except ValidationError as error:
        problems = [Problem(".".join(map(str, e["loc"])) or source, e["msg"]) for e in error.errors()]
        raise SettingsInvalid(
            f"the prices in {source} cannot be used",
            problems=problems,
            remedy="graft cost --show-prices prints a file that can.",
        ) from error


def packaged_text() -> str:
    """The file that came with the package, to be copied and edited."""
    return (files("graftwork") / "prices.yaml").read_text(encoding="utf-8")
