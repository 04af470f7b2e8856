"""Settings become live services: the only place that assembles."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graftwork.errors import StorageError
from graftwork.registry.base_models import BaseModels
from graftwork.registry.blobs import BlobStore
from graftwork.registry.catalog import Catalog
from graftwork.registry.database import Database
from graftwork.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from graftwork.backbones.backbone import Backbone
    from graftwork.registry.base_rows import BaseModel
    from graftwork.registry.manifest import BaseBits
    from graftwork.serving.compiled.forward import Compiler
    from graftwork.serving.delta import Place
    from graftwork.serving.engine import Engine, EngineLimits
    from graftwork.serving.forward import Forward, ForwardFactory
    from graftwork.serving.stats import Meter


@dataclass
class Services(AbstractContextManager["Services"]):
    """Everything an entry point needs, over one registry.

    Attributes:
        settings: what it was assembled from.
        database: the registry's database.
        blobs: the registry's blobs.
        bases: base models.
        catalog: adapters.
    """

    settings: Settings
    database: Database
    blobs: BlobStore
    bases: BaseModels
    catalog: Catalog
    _backbones: dict[tuple[str, BaseBits | None], Backbone] = field(default_factory=dict, repr=False)
    _folders: dict[str, Path] = field(default_factory=dict, repr=False)
    _compilers: list[Compiler] = field(default_factory=list, repr=False)
    _loading: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def backbone(self, base: BaseModel, *, bits: BaseBits | None = None) -> Backbone:
        """The base model in memory, frozen; fetched, verified and loaded at the first call, the same object after.

        Args:
            base: the base model.
            bits: keep its linear layers in few bits, to train on.

        Raises:
            BlobDamaged: if its stored bytes are not what they were.
            ModelError: if it cannot be loaded.
        """
        from graftwork.backbones.load import load_backbone

        with self._loading:
            key = base.fingerprint, bits
            if key not in self._backbones:
                folder = self._folders[base.fingerprint] = self.bases.fetch(base)
                self._backbones[key] = load_backbone(
                    folder,
                    fingerprint=base.fingerprint,
                    tokenizer=base.tokenizer,
                    metadata=base.metadata,
                    dtype=self.settings.dtype,
                    device=self.settings.device,
                    bits=bits,
                )
            return self._backbones[key]

    def engine(self, limits: EngineLimits | None = None, *, compiled: bool = False) -> Engine:
        """A new engine over these services, not started.

        Args:
            limits: its bounds.
            compiled: whether it has networks compiled for this processor, in the background, where that is possible
                and the settings allow it.
        """
        from graftwork.serving.engine import Engine
        from graftwork.serving.forward import eager_forward

        return Engine(
            lambda fingerprint: self.backbone(self.bases.resolve(fingerprint)),
            self.catalog.read,
            limits,
            make_forward=self._compiled_forward() if compiled and self.settings.compile else eager_forward,
        )

    def _compiled_forward(self) -> ForwardFactory:
        from graftwork.backbones.onnx_network import is_graph
        from graftwork.serving.compiled.forward import CompiledForward, Compiler
        from graftwork.serving.forward import eager_forward

        compiler = Compiler(self.settings.cache / "compiled")
        self._compilers.append(compiler)

        def make(backbone: Backbone, places: Mapping[str, Place], meter: Meter) -> Forward:
            if backbone.device.type != "cpu" or backbone.modality != "text" or is_graph(backbone):
                return eager_forward(backbone, places, meter)
            return CompiledForward(backbone, places, self._folders[backbone.fingerprint], compiler, meter)

        return make

    def close(self) -> None:
        """Let go of the database and of what is being compiled; backbones are freed with this object."""
        for compiler in self._compilers:
            compiler.close()
        self.database.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_services(settings: Settings) -> Services:
    """Open the registry; a new home folder is made, a database is brought to the newest schema.

    Raises:
        StorageError: if the home folder or the database cannot be used.
    """
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"the folder {settings.home} cannot be made: {error.strerror}",
            remedy="Set GRAFT_HOME to a folder you may write to.",
        ) from error
    database = Database.open(settings.resolved_database_url)
    blobs = BlobStore.open(settings.resolved_blobs)
    return Services(settings, database, blobs, BaseModels(database, blobs, settings.cache), Catalog(database, blobs))
