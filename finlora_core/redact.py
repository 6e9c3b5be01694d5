"""What may not be shown: secrets and control characters in logs and hints. Pure."""

import re

_SECRETS = re.compile(
    r"hf_[A-Za-z0-9]{16,}"  # Hugging Face tokens
    r"|AKIA[0-9A-Z]{16}"  # AWS access key ids
    r"|(?<=[Bb]earer )\S+"
    r"|(?<=://)[^/\s]+(?=@)",  # user and password of a URL
)
_CONTROL = re.compile(
    r"(?:\x1b\[|\x9b)[0-9;?]*[A-Za-z]"  # colours and cursor moves
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]"
)


def redact(text: str) -> str:
    """`text` without secrets, terminal colours and control characters.

    A carriage return (a progress bar redrawing itself) becomes a line break.
    """
    one_line_each = text.replace("\r\n", "\n").replace("\r", "\n")
    return _SECRETS.sub("[redacted]", _CONTROL.sub("", one_line_each))
