"""How much a key lets its owner have."""

from dataclasses import dataclass

from finlora_core.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Quota:
    """None: any amount."""

    max_queued_runs: int | None = None
    """Runs that wait: queued, or paused."""
    max_stored_bytes: int | None = None
    """Of uploaded datasets, and of uploads that are not completed yet."""
    gpu_hours_per_day: float | None = None
    """Of all GPUs together, in the 24 hours before now."""

    @classmethod
    def of(cls, settings: Settings) -> "Quota":
        """The server's default."""
        mib = settings.max_stored_mib
        return cls(
            max_queued_runs=settings.max_queued_runs,
            max_stored_bytes=None if mib is None else mib * 1024 * 1024,
            gpu_hours_per_day=settings.gpu_hours_per_day,
        )

    def or_else(self, default: "Quota") -> "Quota":
        """What it does not say is the default's."""
        return Quota(
            **{
                name: given if given is not None else getattr(default, name)
                for name, given in vars(self).items()
            }
        )


UNLIMITED = Quota()
