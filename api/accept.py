"""What a client would rather have: RFC 9110, section 12.5.1, for one media type or another."""

STREAM = "text/event-stream"


def prefers_stream(accept: str, otherwise: str) -> bool:
    """Whether this Accept header likes `text/event-stream` better than the media type
    `otherwise`, which is what a client without wishes gets."""
    ranges = dict(filter(None, map(_range, accept.split(","))))
    return _quality(ranges, STREAM) > _quality(ranges, otherwise)


def _range(written: str) -> tuple[str, float] | None:
    """`text/*;q=0.5` as its two halves; None for what cannot be understood."""
    media, *parameters = (part.strip().lower() for part in written.split(";"))
    weights = [part.removeprefix("q=") for part in parameters if part.startswith("q=")]
    try:
        return (media, float(weights[0]) if weights else 1.0) if "/" in media else None
    except ValueError:
        return None


def _quality(ranges: dict[str, float], media: str) -> float:
    """Of the most specific range that covers it."""
    covering = (media, f"{media.partition('/')[0]}/*", "*/*")
    return next((ranges[each] for each in covering if each in ranges), 0.0)
