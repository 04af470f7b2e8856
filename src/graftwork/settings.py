"""Settings of an installation, read from the environment by entry points only."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from graftwork.errors import Problem, SettingsInvalid

DType = Literal["auto", "float32", "bfloat16", "float16"]


class Settings(BaseSettings):
    """Where state lives and what it runs on.

    Every field is an environment variable with the prefix `GRAFT_`: `GRAFT_HOME`, `GRAFT_DATABASE_URL` and so on.
    """

    model_config = SettingsConfigDict(env_prefix="GRAFT_", frozen=True, extra="forbid")

    home: Path = Field(
        default_factory=lambda: Path.home() / ".graftwork", description="folder that holds all local state"
    )
    database_url: str | None = Field(
        None, description="SQLAlchemy URL of the registry's database; SQLite in the home folder by default"
    )
    blobs: str | None = Field(
        None, description="URL of the object store that holds blobs; a folder in the home folder by default"
    )
    device: str = Field("auto", description="torch device: auto, cpu, cuda, cuda:1, mps")
    dtype: DType = Field("auto", description="dtype of the frozen backbone: auto takes what the hardware is fast at")
    compile: bool = Field(
        True, description="whether a server compiles the frozen network for its processor, in the background"
    )
    prices: Path | None = Field(
        None, description="YAML file of prices for graft cost; the examples that come with the package by default"
    )

    @property
    def resolved_database_url(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.home / 'registry.db'}"

    @property
    def resolved_blobs(self) -> str:
        """The blob store's URL in force."""
        return self.blobs or (self.home / "blobs").absolute().as_uri()

    @property
    def cache(self) -> Path:
        """Folder into which base models are fetched; may be deleted at any time."""
        return self.home / "cache"


def load_settings(**overrides: object) -> Settings:
    """Read settings from the environment; keyword arguments win over it.

    Raises:
        SettingsInvalid: with every mistake listed.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = [Problem("GRAFT_" + "_".join(map(str, e["loc"])).upper(), e["msg"]) for e in error.errors()]
        raise SettingsInvalid(
            "the settings cannot be used", problems=problems, remedy="Mend these environment variables."
        ) from error
