from finlora_core.cli import app

app(prog_name="finlora")
