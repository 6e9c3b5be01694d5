"""The newest seal in a file, out of reach of whoever has only the database."""

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from finlora_core.settings import Settings


@dataclass(frozen=True)
class Seal:
    """How far the log went at some time. Kept elsewhere, it tells of a tail that was cut."""

    number: int
    seal: str

    def __str__(self) -> str:
        return f"{self.number}:{self.seal}"

    @classmethod
    def parse(cls, text: str) -> "Seal | None":
        """None for what is none."""
        match = re.fullmatch(r"(\d{1,18}):([0-9a-f]{64})", text)
        return cls(int(match[1]), match[2]) if match else None


def kept_file(settings: Settings) -> Path:
    return settings.home / "audit_head"


def keep(file: Path, seal: Seal) -> None:
    fresh = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    fresh.write_text(f"{seal}\n", "utf-8")
    fresh.replace(file)


def read_kept(settings: Settings) -> Seal | None:
    """What a sealer has left on this machine; None when it is not there."""
    try:
        return Seal.parse(kept_file(settings).read_text("utf-8").strip())
    except FileNotFoundError:
        return None
