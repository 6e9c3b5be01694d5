"""docs/errors.md lists the codes that the code can answer with: all of them, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from finlora_core.runs.kind import RunKind
from finlora_core.training.diagnose import FailureCode
from finlora_core.training.hints import OWN_HINTS

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "errors.md").read_text()
CODE_CELL = r"\| `([a-z_0-9]+)` \|"

OF_THE_FRAMEWORK = {"not_found", "method_not_allowed"}
"""Made from a status by `api.errors`, for what no route answers."""

OF_THE_SERVICE = {"worker_lost", "lease_lost"}
"""Why an attempt ended, told by who found out."""

CALLS = {"problem", "KeyProblem", "_problem"}
"""Their second argument is a code."""


def test_every_code_is_listed_and_every_listed_one_exists() -> None:
    known = {*named(), *OF_THE_FRAMEWORK, *OF_THE_SERVICE, *FailureCode}
    assert listed() - known == set(), "docs/errors.md lists codes that nothing answers with"
    assert known - listed() == set(), "docs/errors.md lacks codes"


def test_where_evaluations_and_merges_have_hints_of_their_own_is_listed() -> None:
    _, _, table = DOCUMENT.partition("| code | what helps an evaluation |")
    of_others = set(re.findall(CODE_CELL, table))
    assert of_others == set(OWN_HINTS[RunKind.EVALUATION]) == set(OWN_HINTS[RunKind.MERGE])


def named() -> Iterator[str]:
    """By the classes of errors, and by calls."""
    for folder in ("api", "finlora_core"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                code = code_of(node)
                if isinstance(code, ast.Constant) and isinstance(code.value, str):
                    yield code.value


def code_of(node: ast.AST) -> ast.expr | None:
    match node:
        case ast.Assign(targets=[ast.Name(id="code")], value=code):
            return code
        case ast.AnnAssign(target=ast.Name(id="code"), value=code):
            return code
        case ast.Call(func=ast.Name(id=name), args=[_, code, *_]) if name in CALLS:
            return code
    return None


def listed() -> set[str]:
    """Of the tables, where a code is alone in its cell, and of the list of those in `errors[]`."""
    cells = re.findall(CODE_CELL, DOCUMENT)
    sentence = re.search(r"^In `errors\[\]`:(.*?)\.\s", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert sentence is not None
    return {*cells, *re.findall(r"`([a-z_0-9]+)`", sentence[1])}
