"""API keys as text: `finlora_<id>_<secret><check>`. Pure.

The id finds the row, the secret proves the right to it, and the check tells a mistyped or cut
key from a wrong one before a database is asked.
"""

import hashlib
import hmac
import re
import secrets
import string
import zlib
from dataclasses import dataclass, field

PREFIX = "finlora_"
ID_LENGTH = 12
SECRET_LENGTH = 32
"""Of 62 letters: 190 bits."""

CHECK_LENGTH = 8

_LETTERS = string.ascii_letters + string.digits
_KEY = re.compile(
    rf"{PREFIX}([A-Za-z0-9]{{{ID_LENGTH}}})_"
    rf"([A-Za-z0-9]{{{SECRET_LENGTH}}})([0-9a-f]{{{CHECK_LENGTH}}})"
)


@dataclass(frozen=True)
class Token:
    id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """What its owner is given, once."""
        return f"{PREFIX}{self.id}_{self.secret}{_check(self.id, self.secret)}"


def mint() -> Token:
    return Token(_random(ID_LENGTH), _random(SECRET_LENGTH))


def parse(text: str) -> Token | None:
    """None for what was never a key of this service."""
    match = _KEY.fullmatch(text)
    if match is None or match[3] != _check(match[1], match[2]):
        return None
    return Token(match[1], match[2])


def secret_hmac(pepper: bytes, secret: str) -> str:
    """What is stored in the secret's place: worth nothing without the server's pepper."""
    return hmac.new(pepper, secret.encode(), hashlib.sha256).hexdigest()


def _random(length: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(length))


def _check(id: str, secret: str) -> str:
    return f"{zlib.crc32(f'{id}_{secret}'.encode()):0{CHECK_LENGTH}x}"
