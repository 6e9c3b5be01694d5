"""What FinLoRA's script renders against what this service renders: `make parity FINLORA=FOLDER`.

FOLDER holds FinLoRA's `finetune_configs.json` and `golden_finetune_configs.json`, what its own
script makes of each. Every key of every config is compared; a difference is allowed only where
the table in docs/finlora.md names the key. The last line is JSON; the exit status is 0 when
nothing else differs, and each row of the table is needed by some config.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finlora_core.runs.config import RunRequest
from finlora_core.training.axolotl import Hardware, TrainingInput, render
from finlora_core.training.files import AttemptFiles

TABLE = Path(__file__).parent.parent / "docs" / "finlora.md"
Rendered = Mapping[str, Any]


def allowed_keys(table: str) -> set[str]:
    """The keys in the first column of the document's first table; `bnb_4bit_*` stands for all."""
    rows = re.findall(r"^\| (`[^|]+?) \|", table, re.MULTILINE)
    return {key for row in rows for key in re.findall(r"`([\w.*\[\]]+)`", row)}


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """`datasets[0].type.format` and its value, for every value that is no list or object.

    Null is left out: Axolotl takes a key that is not there for that.
    """
    if isinstance(value, dict):
        parts = {f"{key}.{name}".lstrip("."): part for name, part in value.items()}
    elif isinstance(value, list):
        parts = {f"{key}[{place}]": part for place, part in enumerate(value)}
    else:
        return {} if value is None else {key: value}
    return {name: leaf for path, part in parts.items() for name, leaf in flat(part, path).items()}


def differences(golden: Rendered, ours: Rendered) -> set[str]:
    return {key for key in golden.keys() | ours.keys() if golden.get(key) != ours.get(key)}


def render_as_posted(config: Mapping[str, Any]) -> Rendered:
    """As on a GPU, for a model that is not at hand, as GET /runs/{id}/config.yaml shows it."""
    run = RunRequest.model_validate(config).config
    given = TrainingInput.as_written(run, rows=10_000)
    return render(run, given, AttemptFiles(Path("attempt")), Hardware.CUDA)


def explained_by(key: str, allowed: set[str]) -> str | None:
    patterns = {row: re.escape(row).replace(r"\*", ".*") + r"(\[.*)?" for row in allowed}
    return next((one for one, regex in patterns.items() if re.fullmatch(regex, key)), None)


def main() -> int:
    folder = Path(sys.argv[1])
    configs = json.loads((folder / "finetune_configs.json").read_text())
    golden = json.loads((folder / "golden_finetune_configs.json").read_text())
    allowed = allowed_keys(TABLE.read_text())
    compared, used, unexplained = 0, Counter[str](), []
    for name, config in configs.items():
        theirs, ours = flat(golden[name]), flat(render_as_posted(config))
        compared += len(theirs.keys() | ours.keys())
        for key in differences(theirs, ours):
            row = explained_by(key, allowed)
            used[row or key] += 1
            unexplained += [] if row else [f"{name}: {key}"]
    for line in unexplained:
        print(f"  not in the table: {line}")
    figures = {
        "configs": len(configs),
        "keys_compared": compared,
        "differences": dict(used.most_common()),
        "unexplained": len(unexplained),
        "rows_without_use": sorted(allowed - used.keys()),
    }
    print(json.dumps(figures))
    return 1 if unexplained or figures["rows_without_use"] else 0


if __name__ == "__main__":
    sys.exit(main())
