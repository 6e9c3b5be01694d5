"""How near a merged model is to its adapter on the base that it was trained on."""

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field

from finlora_core.merging.config import MergeTerms


class Fidelity(BaseModel):
    """Measured over all tokens of the rows, of the merged model as it was saved."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rows: int = Field(ge=1)
    tokens: int = Field(ge=1)
    kl: float = Field(description="Of the merged model's distribution from the adapter's, in nats")
    top1_agreement: float = Field(
        description="Share of the tokens at which both find the same token likeliest."
    )
    max_abs_difference: float = Field(description="Of the logits.")
    mean_abs_difference: float


def shortcomings(found: Fidelity, terms: MergeTerms) -> list[str]:
    """In which it is not as near as was asked for, in words."""
    return list(_shortcomings(found, terms))


def _shortcomings(found: Fidelity, terms: MergeTerms) -> Iterator[str]:
    if found.kl > terms.max_kl:
        yield f"KL {found.kl:.3g} nats a token, above {terms.max_kl:g}"
    if found.top1_agreement < terms.min_top1_agreement:
        wanted = f"below {terms.min_top1_agreement:g}"
        yield f"the same likeliest token at {found.top1_agreement:.4g} of the tokens, {wanted}"
