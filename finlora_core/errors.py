"""Every error FinLoRA raises on purpose.

FinLoRAError
├── Unauthorized         no key, or one that is wrong, expired or revoked
├── Forbidden            the key is good, but not for this
├── NotFound             the named thing does not exist
├── Conflict             it exists, but its state forbids the request
│   ├── IllegalTransition
│   ├── IdempotencyConflict  the key was used for another request
│   ├── NotComparable    two results that no difference can be taken of
│   │   └── DifferentRows
│   ├── IllegalStage     an adapter's next stages are others
│   ├── EvidenceLacking  nothing shows that the adapter is better than the one in production
│   ├── StageChanged     another move of the adapter, or of one of its name, came first
│   └── LeaseLost        another attempt owns this run now
├── Gone                 it is listed, but what it stands for is not there any more
│   ├── AdapterFilesMissing
│   ├── DatasetFileMissing
│   ├── MergedFilesMissing
│   └── AdapterDamaged   its files are not what was published any more
├── MalformedBody        the body is not what its Content-Type says
│   └── InvalidJSON
├── UnsupportedMedia     a Content-Type or Content-Encoding that is not read here
├── BodyTooLarge         more bytes than the server takes
│   └── UploadTooLarge
│       └── StorageQuotaExceeded  more than the key's quota leaves
├── BodyTooSlow          the rest of the body did not come in time
├── TooManyRequests      the same request may work later, at a time that is known
│   ├── RateLimited      too many in too short a time
│   ├── QuotaExceeded    the key's owner has as much as it may have
│   └── PlaygroundBusy   somebody else is using the playground, which has one seat
├── Invalid              the request is well-formed but cannot be trained
│   ├── InvalidRequest   keys are wrong, each named in `problems`
│   ├── DatasetNotFound  no such file inside the dataset roots, no such upload
│   ├── InvalidDataset   the file is there, a line of it cannot be used
│   ├── InvalidConfigFile  a file of run configs that cannot be read, or a wrong key in it
│   ├── UnknownName      there is no run or adapter of this name
│   ├── UnknownTask      there is no evaluation task of this name
│   ├── InvalidTask      a metric, labels or a tolerance that do not go together
│   ├── WrongLabels      no target of the evaluation set is an answer to the task
│   ├── InvalidWebhook   an address that the service may not send to
│   ├── AmbiguousAdapter a name that adapters of several variants have
│   └── InvalidCursor    a page cursor that this server did not make
├── InvalidSettings      the service cannot start with these settings
├── BaseModelUnreadable  the base model's folder lacks a file, or one is damaged
├── AuditDamaged         somebody has been at the audit log
├── InvalidAdapter       what training left, or somebody imports, is not a sound adapter
└── Unavailable          a dependency is down; the same request may work later
    ├── PlaygroundUnavailable  its process is not there, or cannot load the model
    └── InsufficientStorage  the disk is full

`code` is part of the public API (docs/errors.md); the message is for people.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

MAX_SHOWN = 128
"""Characters of what somebody sent, in the answer that there is no such thing."""


@dataclass(frozen=True)
class KeyProblem:
    """One key of the request and what is wrong with it."""

    key: str
    """Dotted, as the user wrote it: `lora_r`."""
    code: str
    message: str


class FinLoRAError(Exception):
    """Base class of everything raised on purpose."""

    code: ClassVar[str] = "internal_error"
    problems: tuple[KeyProblem, ...] = ()


class Unauthorized(FinLoRAError):
    code = "unauthorized"


class Forbidden(FinLoRAError):
    code = "forbidden"


class NotFound(FinLoRAError):
    code = "not_found"

    def __init__(self, kind: str, id: str) -> None:
        super().__init__(f"there is no {kind} {id[:MAX_SHOWN]!r}")


class Conflict(FinLoRAError):
    code = "conflict"


class IllegalTransition(Conflict):
    code = "illegal_transition"


class IdempotencyConflict(Conflict):
    code = "idempotency_conflict"


class DatasetInUse(Conflict):
    code = "dataset_in_use"


class NotComparable(Conflict):
    code = "not_comparable"


class DifferentRows(NotComparable):
    code = "different_rows"


class IllegalStage(Conflict):
    code = "illegal_stage"


class EvidenceLacking(Conflict):
    code = "evidence_lacking"


class StageChanged(Conflict):
    code = "stage_changed"


class LeaseLost(Conflict):
    code = "lease_lost"


class Gone(FinLoRAError):
    code = "gone"


class AdapterFilesMissing(Gone):
    code = "adapter_files_missing"


class MergedFilesMissing(Gone):
    code = "merged_files_missing"


class DatasetFileMissing(Gone):
    code = "dataset_file_missing"


class AdapterDamaged(Gone):
    code = "corrupt"


class MalformedBody(FinLoRAError):
    code = "malformed_body"


class InvalidJSON(MalformedBody):
    code = "invalid_json"


class UnsupportedMedia(FinLoRAError):
    code = "unsupported_media_type"


class BodyTooLarge(FinLoRAError):
    code = "body_too_large"


class UploadTooLarge(BodyTooLarge):
    code = "upload_too_large"


class StorageQuotaExceeded(UploadTooLarge):
    code = "storage_quota_exceeded"


class TooManyRequests(FinLoRAError):
    code = "too_many_requests"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds."""


class RateLimited(TooManyRequests):
    code = "rate_limited"


class QuotaExceeded(TooManyRequests):
    code = "quota_exceeded"


class PlaygroundBusy(TooManyRequests):
    code = "playground_busy"


class BodyTooSlow(FinLoRAError):
    code = "request_timeout"


class Invalid(FinLoRAError):
    code = "invalid"


class InvalidRequest(Invalid):
    code = "invalid_request"

    def __init__(self, *problems: KeyProblem) -> None:
        super().__init__("; ".join(f"{each.key}: {each.message}" for each in problems))
        self.problems = problems


class DatasetNotFound(Invalid):
    code = "dataset_not_found"

    def __init__(self, message: str, key: str = "dataset_path") -> None:
        super().__init__(message)
        self.problems = (KeyProblem(key, self.code, message),)


class InvalidDataset(Invalid):
    code = "invalid_dataset"

    def __init__(self, message: str, key: str = "dataset_path") -> None:
        super().__init__(message)
        self.problems = (KeyProblem(key, self.code, message),)


class InvalidConfigFile(Invalid):
    code = "invalid_config_file"


class UnknownName(Invalid):
    code = "unknown_name"


class AmbiguousAdapter(Invalid):
    code = "ambiguous_adapter"

    def __init__(self, name: str, variants: Sequence[str]) -> None:
        message = f"adapters named {name!r} exist as {', '.join(variants)}; name the variant"
        super().__init__(message)
        self.problems = (KeyProblem("variant", self.code, message),)


class UnknownTask(Invalid):
    code = "unknown_task"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.problems = (KeyProblem("task", self.code, message),)


class InvalidTask(Invalid):
    code = "invalid_task"

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.problems = (KeyProblem(key, self.code, message),)


class WrongLabels(Invalid):
    code = "wrong_labels"


class InvalidWebhook(Invalid):
    code = "invalid_webhook"

    def __init__(self, message: str) -> None:
        super().__init__(f"url: {message}")
        self.problems = (KeyProblem("url", self.code, message),)


class InvalidCursor(Invalid):
    code = "invalid_cursor"

    def __init__(self) -> None:
        message = "this is not a cursor of this server; start again without one"
        super().__init__(message)
        self.problems = (KeyProblem("cursor", self.code, message),)


class InvalidSettings(FinLoRAError):
    code = "invalid_settings"


class BaseModelUnreadable(FinLoRAError):
    code = "base_model_unreadable"


class AuditDamaged(FinLoRAError):
    code = "audit_damaged"


class InvalidAdapter(FinLoRAError):
    code = "invalid_adapter"


class Unavailable(FinLoRAError):
    code = "unavailable"


class PlaygroundUnavailable(Unavailable):
    code = "playground_unavailable"


class InsufficientStorage(Unavailable):
    code = "insufficient_storage"
