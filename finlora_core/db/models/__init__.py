"""The tables. Migrations in migrations/ make the same ones; a test holds the two together."""

from finlora_core.db.models.adapters import Adapter, StageMove
from finlora_core.db.models.audit import AuditEntry, AuditHead
from finlora_core.db.models.base import Base
from finlora_core.db.models.comparisons import Comparison
from finlora_core.db.models.datasets import Dataset, Upload
from finlora_core.db.models.evaluations import EvaluationOutputs, EvaluationResult
from finlora_core.db.models.events import Event
from finlora_core.db.models.idempotency import IdempotencyKey
from finlora_core.db.models.keys import ApiKey
from finlora_core.db.models.merges import MergedModel
from finlora_core.db.models.runs import LogChunk, MetricPoint, Run, RunAttempt, Worker
from finlora_core.db.models.webhooks import Delivery, Webhook

__all__ = [
    "Adapter",
    "ApiKey",
    "AuditEntry",
    "AuditHead",
    "Base",
    "Comparison",
    "Dataset",
    "Delivery",
    "EvaluationOutputs",
    "EvaluationResult",
    "Event",
    "IdempotencyKey",
    "LogChunk",
    "MergedModel",
    "MetricPoint",
    "Run",
    "RunAttempt",
    "StageMove",
    "Upload",
    "Webhook",
    "Worker",
]
