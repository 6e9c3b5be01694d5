"""A merge that ends with a given model, as a worker ends it, but without loading one."""

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from finlora_core.adapters.manifest import describe
from finlora_core.adapters.store import MergedStore
from finlora_core.db.session import Database, now
from finlora_core.merging import results
from finlora_core.merging.fidelity import Fidelity
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.settings import Settings
from tests.support import POLICY

FIGURES = {
    "rows": 2,
    "tokens": 40,
    "kl": 0.004,
    "top1_agreement": 0.975,
    "max_abs_difference": 0.5,
    "mean_abs_difference": 0.01,
}


def write_model(folder: Path) -> None:
    """What merging leaves behind, in the small."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"lm_head.weight": np.ones((4, 4), np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "tokenizer.json").write_text("{}")


def end_merge(database: Database, settings: Settings, id: str, **figures: float) -> None:
    """Of the merge that is the first in line."""
    store, output = MergedStore(settings.adapters), settings.home / "merged"
    write_model(output)
    with database.transaction() as session:
        ttl = timedelta(minutes=2)
        lease = lifecycle.claim_next(session, worker="w", now=now(session), ttl=ttl)
        assert lease is not None
        assert lease.run_id == id
        model_id = results.merged_id(id, lease.attempt)
        names = [path.name for path in output.iterdir()]
        folder = store.publish(model_id, store.stage(model_id, output, names))
        end = AttemptEnd(end=End.COMPLETED)
        lifecycle.finish(session, lease, end, now=now(session), policy=POLICY)
        fidelity = Fidelity.model_validate({**FIGURES, **figures})
        run = queries.get_any_run(session, id)
        results.store(session, run, model_id, fidelity, describe(folder, names))
