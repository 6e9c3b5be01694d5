"""API keys as text, and the pepper that their hashes need."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from finlora_core.access.pepper import load_pepper
from finlora_core.access.tokens import Token, mint, parse, secret_hmac
from finlora_core.errors import InvalidSettings
from finlora_core.settings import Settings


def test_a_key_is_read_back_as_it_was_minted() -> None:
    token = mint()
    assert parse(token.text) == token
    assert token.secret not in repr(token)


def test_no_two_keys_are_alike() -> None:
    assert len({mint().text for _ in range(200)}) == 200


def test_any_changed_letter_is_noticed_without_a_look_up() -> None:
    text = mint().text
    for place in range(len("finlora_"), len(text)):
        changed = "0" if text[place] != "0" else "1"
        assert parse(text[:place] + changed + text[place + 1 :]) is None


@pytest.mark.parametrize("text", ["", "finlora_", "sk-abc", "\ud800", "a" * 10_000])
def test_what_was_never_a_key_is_none(text: str) -> None:
    assert parse(text) is None


def test_a_key_that_is_too_short_or_too_long_is_none() -> None:
    assert parse(mint().text[:-1]) is None
    assert parse(mint().text + "0") is None


def test_a_hash_needs_the_pepper_it_was_made_with() -> None:
    secret = Token("a" * 12, "b" * 32).secret
    assert secret_hmac(b"one", secret) != secret_hmac(b"another", secret)


def test_the_pepper_is_made_once_and_for_its_owner_only(settings: Settings) -> None:
    with ThreadPoolExecutor(8) as pool:
        peppers = set(pool.map(lambda _: load_pepper(settings), range(8)))
    assert len(peppers) == 1
    path = settings.home / "pepper"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["pepper"]


def test_a_pepper_that_is_given_is_used_and_none_is_made(settings: Settings) -> None:
    given = settings.model_copy(update={"key_pepper": SecretStr("p" * 32)})
    assert load_pepper(given) == b"p" * 32
    assert not (settings.home / "pepper").exists()


def test_a_short_pepper_is_refused(settings: Settings) -> None:
    short = settings.model_copy(update={"key_pepper": SecretStr("short")})
    with pytest.raises(InvalidSettings, match="at least 16 bytes"):
        load_pepper(short)
    Path(settings.home / "pepper").write_bytes(b"")
    with pytest.raises(InvalidSettings, match="at least 16 bytes"):
        load_pepper(settings)
