"""`finlora …`: the service, FinLoRA's command, runs and adapters on the command line.

Each module holds a few commands; what a command needs beyond talking to a person lies in
the core. Every failure that is foreseen ends in `terminal.Commands`: one line, exit status 1.
"""

import typer

from finlora_core.cli import (
    adapters,
    audit,
    compare,
    datasets,
    evaluate,
    finetune,
    keys,
    merging,
    runs,
    service,
    submit,
)
from finlora_core.cli.terminal import Commands

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A self-hosted LoRA fine-tuning service: FinLoRA run configs in, checked adapters out.",
    epilog="Every setting is a FINLORA_* variable: see the README's table. FINLORA_URL names a "
    "service that runs already, as --url does.",
)
app.command()(service.up)
app.command()(service.migrate)
app.command()(finetune.finetune)
app.command()(submit.submit)
app.command()(submit.render)
app.command()(evaluate.evaluate)
app.command()(evaluate.evaluations)
app.command()(compare.compare)
for command in (runs.status, runs.logs, runs.cancel, runs.pause, runs.resume, runs.retry):
    app.command()(command)
adapters.app.command()(merging.merge)
app.add_typer(adapters.app, name="adapters")
app.add_typer(audit.app, name="audit")
app.add_typer(datasets.app, name="datasets")
app.add_typer(keys.app, name="keys")
