"""What evaluations found out, as tables: each model on each set, and FinLoRA's figures beside."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from finlora_core.cli.terminal import say, say_table
from finlora_core.client import ApiError, Client

Result = Mapping[str, Any]
Models = Mapping[str | None, tuple[str, str]]
"""By adapter, None being the base itself: a name, and the variant."""

COUNTED = {
    "unread": "unread",
    "empty_outputs": "empty",
    "too_long": "too long",
    "unseen_rows": "whose target is no label",
}
"""Answers that cannot be right, as a result's summary names them."""

RESULTS = ("model", "variant", "set", "metric", "value", "95 % interval", "F1", "BERTScore",
           "rows", "of them")  # fmt: skip
BESIDE = ("model", "variant", "task", "figure", "here", "FinLoRA", "difference",
          "F1", "FinLoRA", "difference")  # fmt: skip


def say_results(client: Client, results: Sequence[Result]) -> None:
    models = _models(client, results)
    say_table(*_without_empty(RESULTS, [_result_row(each, models) for each in results]))
    tasks = {task["name"]: task for task in client.list_tasks()}
    beside = [row for each in results if (row := _beside_row(each, models, tasks))]
    if beside:
        say()
        say("Beside FinLoRA's own figures (docs/evaluation.md says what differs):")
        say_table(*_without_empty(BESIDE, beside))


def say_sides(client: Client, a: Result, b: Result) -> None:
    """Two results that were compared."""
    models = _models(client, (a, b))
    rows = [(side, *_result_row(each, models)) for side, each in (("A", a), ("B", b))]
    say_table(*_without_empty(("", *RESULTS), rows))


def _models(client: Client, results: Iterable[Result]) -> Models:
    return {each["adapter_id"]: _model(client, each) for each in results}


def _model(client: Client, result: Result) -> tuple[str, str]:
    id, bits = result["adapter_id"], result["quant_bits"]
    if id is None:
        return result["base_model"], f"{bits} bits" if bits else ""
    try:
        adapter = client.get_adapter(id)
    except ApiError:  # deleted since
        return id, ""
    return f"{adapter['name']} v{adapter['version']}", adapter["variant"]


def _result_row(result: Result, models: Models) -> Sequence[str]:
    summary = result["summary"]
    return (
        *models[result["adapter_id"]],
        _set(result),
        _metric(result),
        _percent(result["value"]),
        f"[{_points(result['low'])}, {_points(result['high'])}]",
        _share(summary.get("f1_weighted")),
        _share(summary.get("bert_score")),
        str(result["rows"]),
        ", ".join(_counted(summary)),
    )


def _set(result: Result) -> str:
    return result["task"] or PurePosixPath(result["dataset_path"]).name


def _metric(result: Result) -> str:
    tolerance, metric = result["tolerance"], str(result["metric"])
    return metric if tolerance is None else f"{metric} ±{tolerance:g}"


def _counted(summary: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{summary[key]} {word}" for key, word in COUNTED.items() if summary.get(key))
    if summary.get("only_one_class"):
        yield "all of one class"


def _beside_row(
    result: Result, models: Models, tasks: Mapping[str, Mapping[str, Any]]
) -> Sequence[str] | None:
    """None where FinLoRA has published nothing of the same task, base model and variant."""
    model, variant = models[result["adapter_id"]]
    wanted = (result["base_model"], variant if result["adapter_id"] else None)
    task = tasks.get(result["task"], {"published": []})
    published = {
        each["metric"]: each["value"]
        for each in task["published"]
        if (each["base_model"], each["variant"]) == wanted
    }
    if not published:
        return None
    return model, variant, result["task"], *_compared(result, published)


def _compared(result: Result, published: Mapping[str, float]) -> Sequence[str]:
    value, summary = result["value"], result["summary"]
    if (theirs := published.get("bert_score")) is not None:
        ours = summary.get("bert_score")
        return "BERTScore", _share(ours), _share(theirs), _difference(ours, theirs), "", "", ""
    accuracy, f1 = published["accuracy"], published["f1_weighted"]
    return (
        "accuracy", _percent(value), _percent(accuracy), f"{100 * (value - accuracy):+.1f}",
        _share(summary.get("f1_weighted")), _share(f1), _difference(summary["f1_weighted"], f1),
    )  # fmt: skip


def _without_empty(
    heads: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """The columns in which something stands."""
    kept = [n for n in range(len(heads)) if any(row[n] for row in rows)]
    return [heads[n] for n in kept], [[row[n] for n in kept] for row in rows]


def _percent(value: float) -> str:
    return f"{_points(value)} %"


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _difference(ours: float | None, theirs: float) -> str:
    return "" if ours is None else f"{ours - theirs:+.3f}"
