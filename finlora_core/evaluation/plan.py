"""Who is to be judged: adapters on their base as it was trained, and the base itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy.orm import Session

from finlora_core.adapters import registry
from finlora_core.db.models import Adapter
from finlora_core.errors import InvalidRequest, KeyProblem, NotFound
from finlora_core.evaluation.config import EvaluationConfig
from finlora_core.playground import bits_of

Bits = Literal[4, 8]


@dataclass(frozen=True)
class Subject:
    """An adapter on its base, or a base alone."""

    adapter_id: str | None
    quant_bits: Bits | None


@dataclass(frozen=True)
class Plan:
    base_model: str
    subjects: Sequence[Subject]
    variants: str
    """Of the adapters, each once."""


def plan(session: Session, config: EvaluationConfig, owner: str) -> Plan:
    """Raises `InvalidRequest`, naming the key."""
    adapters = [_adapter(session, owner, id, n) for n, id in enumerate(config.adapters)]
    base = config.base_model or adapters[0].base_model
    for number, adapter in enumerate(adapters):
        if adapter.base_model != base:
            raise _invalid(
                f"adapters.{number}",
                f"{adapter.id} is an adapter of {adapter.base_model}, not of {base}: one "
                "evaluation is on one base model",
            )
    subjects = [Subject(adapter.id, bits_of(adapter.variant)) for adapter in adapters]
    if config.base_model is not None:
        subjects.insert(0, Subject(None, config.quant_bits or _common_bits(subjects)))
    variants = dict.fromkeys(adapter.variant for adapter in adapters)
    return Plan(base, subjects, ",".join(variants))


def _adapter(session: Session, owner: str, id: str, number: int) -> Adapter:
    key = f"adapters.{number}"
    try:
        adapter = registry.get_adapter(session, owner, id)
    except NotFound as error:
        raise _invalid(key, str(error)) from None
    if adapter.damage is not None:
        raise _invalid(key, f"{id} is damaged: {adapter.damage}")
    return adapter


def _common_bits(subjects: Sequence[Subject]) -> Bits | None:
    """In which all the adapters were trained; of several, none: then 16 bits are meant."""
    bits = {subject.quant_bits for subject in subjects}
    return bits.pop() if len(bits) == 1 else None


def _invalid(key: str, message: str) -> InvalidRequest:
    return InvalidRequest(KeyProblem(key, "invalid_value", message))
