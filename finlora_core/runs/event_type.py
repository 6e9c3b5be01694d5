"""What can be told of a run. The words are part of the API: docs/api.md lists them."""

from enum import StrEnum


class EventType(StrEnum):
    CREATED = "created"
    STARTED = "started"
    RESUMED_FROM_CHECKPOINT = "resumed_from_checkpoint"
    ROWS_DROPPED = "rows_dropped"
    CHECKPOINT_SAVED = "checkpoint_saved"
    CANCEL_REQUESTED = "cancel_requested"
    PAUSE_REQUESTED = "pause_requested"
    PAUSED = "paused"
    RESUMED = "resumed"
    REQUEUED = "requeued"
    SUCCEEDED = "succeeded"
    ADAPTER_PUBLISHED = "adapter_published"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Level(StrEnum):
    INFO = "info"
    WARN = "warn"
    ERROR = "error"
