"""Every error a user can meet, as one tree.

    GraftworkError
    ├── UserError                       the user can mend it (exit code 2)
    │   ├── SettingsInvalid             settings or options that are unknown or contradict each other
    │   ├── DependencyMissing           an optional package is not installed
    │   ├── DownloadFailed              an index cannot be reached or gives other bytes than expected
    │   ├── DataError                   the rows
    │   │   ├── DataUnreadable          file missing, empty, wrong encoding, broken quoting
    │   │   ├── ColumnsMissing          no such columns
    │   │   ├── DataRejected            read, but nothing sound can be trained on it
    │   │   └── NotBetter               trained, but worse than what answers already
    │   ├── ModalityMismatch            a text for a model that reads images, and the like
    │   ├── ModelError                  the base model
    │   │   ├── ModelUnreadable         not a model folder, unsafe or damaged weights
    │   │   ├── ModelUnsupported        a sound model of a kind that cannot be used so
    │   │   └── BaseMismatch            an adapter and a base that do not belong together
    │   ├── ReferenceMalformed          not of the form tenant/name[@version|:alias]
    │   ├── NotFound                    no such base, adapter, version or alias
    │   ├── Conflict                    somebody else was first, or the thing is in use
    │   │   └── InUse                   it has children or aliases
    │   ├── RequestError                a request to the server
    │   │   ├── RequestInvalid          wrong shape or types
    │   │   ├── RequestTooLarge         body, text or list over the limit
    │   │   ├── QueueFull               the tenant's queue is full
    │   │   └── DeadlineExceeded        dropped before it was computed
    │   └── PortInUse                   the server's address is taken
    ├── ArtifactError                   a published thing is not what its digest or manifest says
    │   ├── ArtifactInvalid             tensors, shapes or values break the manifest's promise
    │   └── BlobDamaged                 bytes missing, cut short or changed
    ├── StorageError                    the disk or the database
    │   ├── StorageFull                 no space left
    │   └── StorageTimeout              it has not answered in time
    ├── ServiceUnavailable              stopping, or not ready yet
    └── TrainingInterrupted             asked to stop; the same command with --resume goes on (exit code 75)

Each class has one stable `code` (it is in every JSON answer and never changes its meaning), the HTTP status
it becomes, and the exit code of the command line: 2 for the user's mistake, 1 for ours, 75 for a run that was asked
to stop and can go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake among several: where it is (file, row, field) and what is wrong there."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class GraftworkError(Exception):
    """The root of the tree.

    Args:
        message: what was wrong and where, one sentence.
        remedy: what to do about it, one sentence.
        problems: all the single mistakes, when there are several.
        retry_after: seconds after which the same call may succeed, where that is known.

    Example:
        >>> error = NotFound("no base model named 'minilm'", remedy="graft base list shows the names.")
        >>> error.code, error.status, error.exit_code
        ('not-found', 404, 2)
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        problems: Sequence[Problem] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.problems = tuple(problems)
        self.retry_after = retry_after

    def __str__(self) -> str:
        lines = [self.message, *(f"  - {problem}" for problem in self.problems)]
        if self.remedy:
            lines.append(self.remedy)
        return "\n".join(lines)


class UserError(GraftworkError):
    """Something the user can mend."""

    code = "user-error"
    status = 400
    exit_code = 2


class SettingsInvalid(UserError):
    """Settings or options that are unknown, malformed or contradict each other."""

    code = "settings-invalid"


class DependencyMissing(UserError):
    """An optional package is needed and not installed."""

    code = "dependency-missing"
    status = 501


class DownloadFailed(UserError):
    """Something to be fetched cannot be reached, or is not what it should be."""

    code = "download-failed"
    status = 502


class DataError(UserError):
    """The rows cannot be used."""

    code = "data-error"
    status = 422


class DataUnreadable(DataError):
    """The file is missing, empty, in another encoding than said, or broken."""

    code = "data-unreadable"


class ColumnsMissing(DataError):
    """The file was read but has no such columns."""

    code = "columns-missing"


class DataRejected(DataError):
    """The rows were read, but no sound classifier can be trained on them."""

    code = "data-rejected"


class NotBetter(DataError):
    """What was trained is worse than what answers already, so it was not published."""

    code = "not-better"


class ModalityMismatch(UserError):
    """What was given is of another kind than the base model reads: a text for a model of images, and the like."""

    code = "modality-mismatch"
    status = 422


class ModelError(UserError):
    """The base model cannot be used."""

    code = "model-error"
    status = 422


class ModelUnreadable(ModelError):
    """Not a model folder, or its weights are unsafe or damaged."""

    code = "model-unreadable"


class ModelUnsupported(ModelError):
    """A sound model, but of a kind that cannot be used for this."""

    code = "model-unsupported"


class BaseMismatch(ModelError):
    """An adapter was asked to run on a base model it was not made for."""

    code = "base-mismatch"
    status = 409


class ReferenceMalformed(UserError):
    """Not of the form `tenant/name`, `tenant/name@3` or `tenant/name:production`."""

    code = "reference-malformed"
    status = 422


class NotFound(UserError):
    """No such thing, or not yours: the two are told in the same words."""

    code = "not-found"
    status = 404


class Conflict(UserError):
    """Somebody else was first."""

    code = "conflict"
    status = 409


class InUse(Conflict):
    """It cannot be deleted: others depend on it."""

    code = "in-use"


class RequestError(UserError):
    """A request the server refuses."""

    code = "request-error"


class RequestInvalid(RequestError):
    """The body is not of the documented shape."""

    code = "request-invalid"
    status = 422


class RequestTooLarge(RequestError):
    """The body, a text or the list of texts is over the limit."""

    code = "request-too-large"
    status = 413


class QueueFull(RequestError):
    """The tenant has as many requests waiting as it may."""

    code = "queue-full"
    status = 429


class DeadlineExceeded(RequestError):
    """The request's deadline passed before it was computed."""

    code = "deadline-exceeded"
    status = 504


class PortInUse(UserError):
    """The address the server should listen on is taken."""

    code = "port-in-use"


class ArtifactError(GraftworkError):
    """A stored thing is not what its digest or its manifest says."""

    code = "artifact-error"
    status = 503


class ArtifactInvalid(ArtifactError):
    """Tensors are missing, left over, of another shape or dtype, too large or not finite."""

    code = "artifact-invalid"


class BlobDamaged(ArtifactError):
    """Stored bytes are missing, cut short or changed."""

    code = "blob-damaged"


class StorageError(GraftworkError):
    """The disk or the database did not take or give what it should."""

    code = "storage-error"
    status = 503


class StorageFull(StorageError):
    """No space is left."""

    code = "storage-full"
    status = 507


class StorageTimeout(StorageError):
    """The store or the database has not answered in time."""

    code = "storage-timeout"


class ServiceUnavailable(GraftworkError):
    """The service is stopping, or not ready yet."""

    code = "unavailable"
    status = 503


class TrainingInterrupted(GraftworkError):
    """A training run was asked to stop; what it had reached is kept."""

    code = "training-interrupted"
    status = 503
    exit_code = 75  # EX_TEMPFAIL of sysexits.h: not done, and worth trying again
