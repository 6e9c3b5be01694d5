"""No secrets and no control characters in what people and databases get to see."""

import pytest

from finlora_core.redact import redact

HF = "hf_AbCdEfGhIjKlMnOpQrSt"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"token={HF}, next", "token=[redacted], next"),
        (f"{HF} {HF}", "[redacted] [redacted]"),
        ("key AKIAIOSFODNN7EXAMPLE.", "key [redacted]."),
        ("Authorization: Bearer abc.DEF-123", "Authorization: Bearer [redacted]"),
        ("postgresql+psycopg://finlora:s3cr%40t@db/x", "postgresql+psycopg://[redacted]@db/x"),
        ("https://user:pa:ss@host:8080/a@b", "https://[redacted]@host:8080/a@b"),
        ("a https://u:p@h/1 b https://v:q@i/2", "a https://[redacted]@h/1 b https://[redacted]@i/2"),
    ],
)  # fmt: skip
def test_a_secret_is_blotted_out_and_what_is_around_it_stays(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "hf_short", "AKIA", "https://huggingface.co/a/b", "http://127.0.0.1:8000/runs",
        "redis://redis:6379/0", "me@example.org", "12:30:05 loss 0.5 @ step 3", "Bearer",
        "tabs\tand\nlines stay, as do Umsätze ↑ 財務",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m \x1b[2K\x1b[?25l", "red "),
        ("nul\0 bell\a backspace\b escape\x1b delete\x7f", "nul bell backspace escape delete"),
        ("half a character \ud800", "half a character "),
        ("10%\r20%\r\n30%\n", "10%\n20%\n30%\n"),
        ("form\x0cfeed\x0b", "formfeed"),
    ],
)
def test_control_characters_are_dropped(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_control_characters_do_not_hide_a_secret() -> None:
    assert redact(f"{HF[:8]}\x1b[0m\0{HF[8:]}") == "[redacted]"


def test_redacting_twice_changes_nothing_more() -> None:
    once = redact(f"{HF} https://u:p@h Bearer x \x1b[31m")
    assert redact(once) == once
