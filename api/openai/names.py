"""What finished adapters are called below /v1, where one name has to say everything.

ft:meta-llama/Llama-3.1-8B-Instruct:local:sentiment:8f0c1d0c4a8b4e2f9d11_1
   base model                       owner name      the adapter's id, without adp_
"""

from finlora_core.db.models import Adapter, Run

FINE_TUNED = "ft:"
_ADAPTER = "adp_"


def model_of(adapter: Adapter) -> str:
    return _name(
        adapter.base_model, adapter.owner, adapter.name, adapter.id.removeprefix(_ADAPTER)
    )


def checkpoint_of(run: Run, step: int) -> str:
    """Of a training's state after a step: a name to tell them apart, not one to ask."""
    name = _name(run.base_model, run.owner, run.name, run.id.removeprefix("run_"))
    return f"{name}:ckpt-step-{step}"


def adapter_id(model: str) -> str | None:
    """The adapter that the name is of, or the id itself; None for what is neither."""
    if model.startswith(_ADAPTER):
        return model
    if not model.startswith(FINE_TUNED):
        return None
    return _ADAPTER + model.rpartition(":")[2]


def _name(base_model: str, owner: str, name: str, last: str) -> str:
    return f"{FINE_TUNED}{base_model}:{owner}:{name}:{last}"
