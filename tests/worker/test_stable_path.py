"""The stable path of a name loads with PEFT, before and after another version has landed."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from finlora_core.adapters import registry
from finlora_core.adapters.manifest import CONFIG, WEIGHTS, describe
from finlora_core.adapters.registry import Identity
from finlora_core.adapters.stable import link_newest
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.session import Database, now
from finlora_core.settings import Settings
from tests.support import BASE_MODEL

pytestmark = pytest.mark.training

VARIANT, NAME = "fp16_r8", "sentiment"


def write_trained(folder: Path, base: Path, fill: float) -> None:
    """What a training leaves behind whose every B has become `fill`."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=8, target_modules=["q_proj"])
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.fill_(fill)
    model.save_pretrained(folder)


def publish(database: Database, store: AdapterStore, id: str, output: Path) -> None:
    store.publish(id, store.stage(id, output))
    files = describe(store.folder(id), (CONFIG, WEIGHTS))
    with database.transaction() as session:
        identity = Identity(NAME, VARIANT, BASE_MODEL, "local")
        registry.add_imported(session, identity, id, files, now=now(session))
    link_newest(database, store, "local", VARIANT, NAME)


def fill_of(base: Path, adapter: Path) -> set[float]:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    found = {name: weight for name, weight in model.named_parameters() if "lora_B" in name}
    return {value for weight in found.values() for value in weight.flatten().tolist()}


def test_the_stable_path_shows_the_newest_version_and_the_old_one_stays(
    settings: Settings, sqlite: Database, tiny_base: Path, tmp_path: Path
) -> None:
    base, store = tiny_base / BASE_MODEL, AdapterStore(settings.adapters)
    stable = settings.adapters / VARIANT / NAME
    for version, fill in ((1, 0.5), (2, 0.25)):
        write_trained(tmp_path / f"output-{version}", base, fill)
        publish(sqlite, store, f"adp_{version}", tmp_path / f"output-{version}")
        assert fill_of(base, stable) == {fill}
    assert fill_of(base, store.folder("adp_1")) == {0.5}
