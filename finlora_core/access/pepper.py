"""The server's own secret, without which stored key hashes are worth nothing."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from finlora_core.errors import InvalidSettings
from finlora_core.settings import Settings

LENGTH = 32
"""Bytes, when we make it."""

LEAST = 16
"""Bytes, of one that somebody else has made."""


def load_pepper(settings: Settings) -> bytes:
    """FINLORA_KEY_PEPPER, else the home's file `pepper`, made at the first start.

    Raises `InvalidSettings` for one that is too short or cannot be read.
    """
    if settings.key_pepper is not None:
        pepper = settings.key_pepper.get_secret_value().strip().encode()
        return _long_enough(pepper, "FINLORA_KEY_PEPPER")
    path = settings.home / "pepper"
    try:
        if not path.exists():
            _make(path)
        return _long_enough(path.read_bytes(), str(path))
    except OSError as error:
        raise InvalidSettings(f"cannot read {path}: {error.strerror}") from None


def _make(path: Path) -> None:
    """Of two processes that start at once, the first one's stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".pepper.{os.getpid()}.{secrets.token_hex(4)}")
    write_private(fresh, secrets.token_bytes(LENGTH))
    with suppress(FileExistsError):
        os.link(fresh, path)
    fresh.unlink()


def write_private(path: Path, content: bytes) -> None:
    """A new file that only its owner can read, on disk when this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _long_enough(pepper: bytes, source: str) -> bytes:
    if len(pepper) < LEAST:
        raise InvalidSettings(f"{source} must hold at least {LEAST} bytes; `openssl rand -hex 24`")
    return pepper
