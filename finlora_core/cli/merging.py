"""Merge an adapter into its base, and look at how near that came."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from finlora_core.cli.adapters import Variant, Version, Wanted, find_adapter
from finlora_core.cli.follow import watch
from finlora_core.cli.progress import MB, run_words
from finlora_core.cli.terminal import Url, connect, say, say_facts


def merge(
    wanted: Wanted,
    variant: Variant = None,
    version: Version = None,
    max_kl: Annotated[
        float | None,
        typer.Option(min=0, help="Nats a token that it may be from the adapter. Default: 0.01."),
    ] = None,
    min_top1: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of tokens with the same likeliest one. Default: 0.95."
        ),
    ] = None,
    override: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Publish it however near it is; the reason is kept."),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Show its progress until it has ended.")] = True,
    url: Url = None,
) -> None:
    """Merge an adapter into its base, for engines that do not take it as it is.

    It waits in the line of the service's runs. The merged model is compared with the adapter on
    the base that it was trained on, and kept by the service if it is near enough.

    \b
    finlora adapters merge sentiment_llama_3_1_8b_8bits_r8
    finlora adapters pull sentiment_llama_3_1_8b_8bits_r8 --merged
    """
    asked = {"max_kl": max_kl, "min_top1_agreement": min_top1, "override": override}
    with connect(url) as client:
        adapter = find_adapter(client, wanted, variant, version)
        terms = {key: value for key, value in asked.items() if value is not None}
        made = client.merge_adapter(adapter["id"], terms)
        say(f"Posted {made['id']} ({made['name']}) to {client.url}. Ctrl-C only stops watching.")
        if wait:
            say_merge(watch(client, made))
            say(f"Fetch it: finlora adapters pull {adapter['id']} --merged --url {client.url}")
        else:
            say(f"To see how it went: finlora status {made['id']} --url {client.url}")


def say_merge(merge: Mapping[str, Any]) -> None:
    error, merged = merge["error"], merge["merged"]
    facts = {
        "name": merge["name"],
        "status": run_words(merge)[2],
        "adapter": merge["adapter_id"],
        "base model": merge["base_model"],
        "created": merge["created_at"],
        "finished": merge["finished_at"],
        "error": error and f"{error['code']}: {error['hint']}",
        **(_facts_of(merged) if merged else {}),
    }
    if merged and merged["overridden"]:
        facts["overridden"] = f"{merged['overridden']}; {merge['config']['override']}"
    say_facts(merge["id"], facts)


def _facts_of(merged: Mapping[str, Any]) -> Mapping[str, str]:
    found = merged["fidelity"]
    return {
        "KL": f"{found['kl']:.3g} nats a token, over {found['tokens']} tokens",
        "top-1": f"{found['top1_agreement']:.1%} of the tokens",
        "size": f"{merged['size'] / MB:.1f} MB",
    }
