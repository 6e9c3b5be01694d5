"""What can be asked of a merge: how near the merged model has to be, and what on."""

import hashlib
import json

from pydantic import Field

from finlora_core.evaluation.config import AdapterId, Closed
from finlora_core.runs.config import Line, Treatment

MAX_KL = 0.01
"""Nats a token: 20 times the most that was measured (docs/decisions/0020)."""

MIN_TOP1_AGREEMENT = 0.95
"""Measured were 0.99 and more, of a model that has learnt something."""


class MergeTerms(Closed):
    """When a merged model is published."""

    max_kl: float = Field(
        MAX_KL,
        ge=0,
        allow_inf_nan=False,
        description="Nats a token that the merged model's answers may be from those of the "
        "adapter on its base.",
    )
    min_top1_agreement: float = Field(
        MIN_TOP1_AGREEMENT,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Share of the tokens at which both must find the same token likeliest.",
    )
    override: Line | None = Field(
        None,
        description="Publish it even so, for this reason: it is kept with the model.",
        examples=["for a demonstration only"],
    )
    dataset_path: Line | None = Field(
        None,
        description="Rows to measure on: a file inside a dataset root, or an uploaded "
        "`dataset_…`; the first 16 are taken. Default: those that the adapter was trained on, "
        "where they are still there, else a few of the service's own.",
    )


class MergeConfig(MergeTerms):
    """`dataset_path` says here what is taken; None is the service's own."""

    adapter_id: AdapterId

    @property
    def sha256(self) -> str:
        """Of the config as sorted JSON, defaults left out."""
        text = json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class MergeRequest(MergeTerms, Treatment):
    """What POST /adapters/{adapter_id}/merge takes."""
