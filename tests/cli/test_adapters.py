"""`finlora adapters …`: found by name, fetched over a bad network, verified, imported."""

from pathlib import Path

import pytest

from finlora_core.adapters.manifest import sha256_of
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.models import Adapter
from finlora_core.db.session import Database
from finlora_core.settings import Settings
from tests.cli.conftest import Finlora, Publish
from tests.cli.proxy import cutting
from tests.lora import write_adapter

WEIGHTS = "adapter_model.safetensors"
MB = 1_000_000


@pytest.fixture
def cwd(finlora: Finlora, tmp_path: Path) -> Path:
    return tmp_path / "cwd"


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in folder.iterdir()}


def listed(adapter: Adapter) -> dict[str, str]:
    return {file["path"]: file["sha256"] for file in adapter.files}


def test_adapters_are_listed_with_whole_ids(finlora: Finlora, publish: Publish) -> None:
    first, second = publish(), publish("a_long_name_" * 8, quant_bits=8)
    done = finlora("adapters", "list")
    heads, *rows = [line.split() for line in done.stdout.splitlines()]
    assert heads[:4] == ["adapter", "variant", "name", "version"]
    assert [row[:4] for row in rows] == [
        [second.id, "8bits_r8", second.name, "1"],
        [first.id, "fp16_r8", "sentiment", "1"],
    ]
    only = finlora("adapters", "list", "--variant", "8bits_r8").stdout
    assert (second.id in only, first.id in only) == (True, False)


def test_one_adapter_is_shown_with_the_hash_of_each_file(
    finlora: Finlora, publish: Publish
) -> None:
    adapter = publish()
    shown = finlora("adapters", "show", "sentiment").stdout
    assert adapter.id in shown
    for path, sha256 in listed(adapter).items():
        assert any(path in line and sha256 in line for line in shown.splitlines())


def test_who_can_serve_an_adapter_is_shown_with_the_command(
    finlora: Finlora, publish: Publish
) -> None:
    publish(quant_bits=4)
    lines = finlora("adapters", "show", "sentiment").stdout.splitlines()
    [verdict] = [line for line in lines if line.startswith("SGLang") and ":" not in line[:25]]
    assert " ok " in verdict
    assert "4 bits" in verdict
    [command] = [line for line in lines if "vllm serve" in line and "bitsandbytes" not in line]
    assert command.endswith("--lora-modules sentiment=./sentiment-v1")


def test_a_pull_by_name_brings_the_newest_version(
    finlora: Finlora, publish: Publish, cwd: Path
) -> None:
    first, second = publish(), publish()
    done = finlora("adapters", "pull", "sentiment")
    assert done.returncode == 0, done.stderr
    assert hashes(cwd / "sentiment-v2") == listed(second)
    finlora("adapters", "pull", "sentiment", "--version", "1", "--to", "below")
    assert hashes(cwd / "below" / "sentiment-v1") == listed(first)
    assert sorted(path.name for path in cwd.iterdir()) == ["below", "sentiment-v2"]


def test_a_name_that_several_variants_have_needs_the_variant(
    finlora: Finlora, publish: Publish, cwd: Path
) -> None:
    publish()
    publish(quant_bits=4)
    refused = finlora("adapters", "pull", "sentiment")
    assert refused.returncode == 1
    assert "4bits_r8, fp16_r8; name the variant" in refused.stderr
    assert finlora("adapters", "pull", "sentiment", "--variant", "4bits_r8").returncode == 0


def test_an_unknown_adapter_gets_the_close_names(finlora: Finlora, publish: Publish) -> None:
    publish()
    publish("headline")
    refused = finlora("adapters", "pull", "sentimet")
    assert refused.returncode == 1
    assert "unknown_name" in refused.stderr
    assert "close to it of 2: sentiment" in refused.stderr


def test_a_pull_goes_on_through_connections_that_break(
    finlora: Finlora, publish: Publish, url: str, cwd: Path
) -> None:
    adapter = publish(blob=3 * MB)
    with cutting(url, limit=MB) as proxy:
        done = finlora("adapters", "pull", adapter.id, "--url", proxy.url)
        assert done.returncode == 0, done.stderr
        assert hashes(cwd / "sentiment-v1") == listed(adapter)
        assert proxy.answered < 3.5 * MB


def test_a_pull_that_was_cut_off_is_gone_on_with_by_the_same_command(
    finlora: Finlora, publish: Publish, url: str, cwd: Path
) -> None:
    adapter = publish(blob=3 * MB)
    with cutting(url, limit=2 * MB, connections=1) as proxy:
        broken = finlora("adapters", "pull", adapter.id, "--url", proxy.url)
    assert broken.returncode == 1
    assert "the same command goes on from there" in broken.stderr
    staging = cwd / f".{adapter.id}.part"
    assert [path.name for path in cwd.iterdir()] == [staging.name]
    kept = (staging / "tokenizer.json.part").stat().st_size
    assert kept > MB
    with cutting(url, limit=10 * MB) as proxy:
        assert finlora("adapters", "pull", adapter.id, "--url", proxy.url).returncode == 0
        assert proxy.answered < 3 * MB - kept + 0.2 * MB
    assert hashes(cwd / "sentiment-v1") == listed(adapter)
    assert [path.name for path in cwd.iterdir()] == ["sentiment-v1"]


def test_what_was_changed_while_it_waited_is_fetched_anew(
    finlora: Finlora, publish: Publish, cwd: Path
) -> None:
    adapter = publish()
    staging = cwd / f".{adapter.id}.part"
    staging.mkdir()
    (staging / f"{WEIGHTS}.part").write_bytes(b"not the beginning of it")
    (staging / "tokenizer.json").write_bytes(b"changed since")
    refused = finlora("adapters", "pull", adapter.id)
    assert refused.returncode == 1
    assert f"checksum_mismatch: {WEIGHTS}" in refused.stderr
    assert finlora("adapters", "pull", adapter.id).returncode == 0
    assert hashes(cwd / "sentiment-v1") == listed(adapter)


def test_a_folder_that_is_there_already_is_compared_and_never_overwritten(
    finlora: Finlora, publish: Publish, cwd: Path
) -> None:
    publish()
    for _ in range(2):
        assert finlora("adapters", "pull", "sentiment").returncode == 0
    (cwd / "sentiment-v1" / WEIGHTS).write_bytes(b"mine")
    refused = finlora("adapters", "pull", "sentiment")
    assert refused.returncode == 1
    assert "is there already" in refused.stderr
    assert (cwd / "sentiment-v1" / WEIGHTS).read_bytes() == b"mine"


def test_verify_names_the_file_that_one_bit_was_flipped_in(
    finlora: Finlora, publish: Publish, cwd: Path
) -> None:
    publish()
    finlora("adapters", "pull", "sentiment")
    folder = cwd / "sentiment-v1"
    assert finlora("adapters", "verify", folder).returncode == 0
    weights = bytearray((folder / WEIGHTS).read_bytes())
    weights[1000] ^= 1
    (folder / WEIGHTS).write_bytes(weights)
    found = finlora("adapters", "verify", "sentiment-v1")
    assert found.returncode == 1
    (line,) = found.stdout.splitlines()
    assert line.startswith(f"{WEIGHTS}: has SHA-256")


def test_verify_takes_an_id_of_this_machines_store(
    finlora: Finlora, publish: Publish, settings: Settings
) -> None:
    adapter = publish()
    assert finlora("adapters", "verify", adapter.id).returncode == 0
    (AdapterStore(settings.adapters).folder(adapter.id) / "manifest.json").write_text("{}")
    found = finlora("adapters", "verify", adapter.id)
    assert found.returncode == 1
    assert found.stdout.startswith("manifest.json: ")
    unknown = finlora("adapters", "verify", "adp_nope")
    assert (unknown.returncode, "not_found" in unknown.stderr) == (1, True)


def test_an_import_says_a_line_for_each_folder(
    finlora: Finlora, sqlite: Database, cwd: Path
) -> None:
    tree = cwd / "lora_adapters" / "fp16_r8"
    write_adapter(tree / "sound")
    write_adapter(tree / "pickled")
    (tree / "pickled" / "adapter_model.safetensors").rename(tree / "pickled/adapter_model.bin")
    done = finlora("adapters", "import", "lora_adapters")
    assert done.returncode == 1
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert lines["fp16_r8/sound"].startswith("imported as fp16_r8/sound version 1, adp_imported_")
    assert lines["fp16_r8/pickled"].startswith("refused: ")
    assert done.stdout.splitlines()[-1] == "2 found, 1 refused"
    (row,) = finlora("adapters", "list").stdout.splitlines()[1:]
    assert row.split()[1:4] == ["fp16_r8", "sound", "1"]
