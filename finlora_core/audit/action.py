"""What can be told of."""

from enum import StrEnum


class Action(StrEnum):
    KEY_CREATED = "key.created"
    KEY_REVOKED = "key.revoked"
    RUN_CREATED = "run.created"
    RUN_RETRIED = "run.retried"
    RUN_CANCELLED = "run.cancelled"
    RUN_PAUSED = "run.paused"
    RUN_RESUMED = "run.resumed"
    EVALUATION_CREATED = "evaluation.created"
    EVALUATION_CANCELLED = "evaluation.cancelled"
    COMPARISON_CREATED = "comparison.created"
    ADAPTER_MOVED = "adapter.moved"
    MERGE_CREATED = "merge.created"
    MERGE_CANCELLED = "merge.cancelled"
    MERGED_MODEL_DELETED = "merge.model_deleted"
    DATASET_CREATED = "dataset.created"
    DATASET_DELETED = "dataset.deleted"
    UPLOAD_CREATED = "upload.created"
    UPLOAD_CANCELLED = "upload.cancelled"
    WEBHOOK_CREATED = "webhook.created"
    WEBHOOK_DELETED = "webhook.deleted"
    WEBHOOK_REDELIVERED = "webhook.redelivered"
