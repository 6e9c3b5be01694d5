"""Every setting of the service, read once at the edge from FINLORA_* variables.

Nothing below the entry points reads the environment: they call `load_settings()`
and pass what it returns inward. A secret can also be a file named like its variable
in lower case (`finlora_database_password`) under /run/secrets, where container
runtimes put them.
"""

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from limits import parse_many
from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from finlora_core.errors import InvalidSettings

SECRETS_DIR = Path("/run/secrets")

KILL_MARGIN = 5.0
"""Seconds that clearing a killed training's processes away may take, beyond the grace."""

Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode]
SEPARATORS = {
    "allowed_hosts": ",",
    "dataset_roots": ":",
    "models_dirs": ":",
    "webhook_networks": ",",
}
"""Of the settings that are lists: folders as in PATH."""

PathList = Annotated[tuple[Path, ...], NoDecode]
HostName = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9._-]+|\*)$")]
NameList = Annotated[tuple[HostName, ...], NoDecode]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _default_home() -> Path:
    return Path.home() / ".finlora"


def _absolute(path: Path) -> Path:
    return path.expanduser().resolve()


class Settings(BaseSettings):
    """Frozen; paths are made absolute. Durations are in seconds, sizes in MiB."""

    model_config = SettingsConfigDict(
        env_prefix="FINLORA_", frozen=True, extra="forbid", env_ignore_empty=True
    )

    home: Annotated[Path, AfterValidator(_absolute)] = Field(
        default_factory=_default_home,
        validate_default=True,
        description="The one folder that holds the database, the queue, run folders and, unless "
        "set otherwise, datasets, models and adapters.",
    )
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port the API listens on.")
    allowed_hosts: NameList = Field(
        (),
        description="Names, separated by ',', that requests may call the API by, beside "
        "addresses, localhost and FINLORA_HOST. '*' allows all.",
    )
    database_url: str | None = Field(
        None, description="SQLAlchemy URL. Default: SQLite in the home folder."
    )
    database_password: SecretStr | None = Field(
        None, description="Put into database_url, so that the URL itself holds no secret."
    )
    broker_url: str | None = Field(
        None, description="Redis URL for Celery. Default: the embedded Redis of `finlora up`."
    )
    broker_password: SecretStr | None = Field(
        None, description="Put into broker_url, so that the URL itself holds no secret."
    )
    adapters_dir: Path | None = Field(
        None, description="Where adapters are published. Default: lora_adaptors/ in the home."
    )
    dataset_roots: PathList = Field(
        (),
        description="Folders, separated by ':', that dataset_path may point into. A FinLoRA "
        "checkout works as one. Default: datasets/ in the home.",
    )
    uploads_dir: Path | None = Field(
        None,
        description="Where uploaded datasets lie, for this service alone. Default: uploads/ in "
        "the home. The API and every worker must see the same folder.",
    )
    max_upload_mib: int = Field(1024, ge=1, description="How large an uploaded dataset may be.")
    runs_dir: Path | None = Field(
        None,
        description="Where attempts and checkpoints lie. Default: runs/ in the home. Shared by "
        "several hosts, it lets one go on from another's checkpoints.",
    )
    models_dirs: PathList = Field(
        (),
        description="Folders, separated by ':', searched for <org>/<model> before the hub. "
        "Default: models/ in the home.",
    )
    key_pepper: SecretStr | None = Field(
        None,
        description="What stored API keys are hashed with; the same for every process. Default: "
        "the file pepper in the home, made at the first start.",
    )
    webhook_networks: Networks = Field(
        (),
        description="Networks, separated by ',', that webhooks may be sent to although they are "
        "not public, such as 10.1.0.0/16; over plain http, too, to addresses in them.",
    )
    rate_limit: str = Field(
        "600/minute",
        description="How many requests a key may send, such as 10/second or 600/minute; off for "
        "any number.",
    )
    max_queued_runs: int | None = Field(
        None,
        ge=0,
        description="How many runs a key's owner may have queued or paused, where the key does "
        "not say it.",
    )
    max_stored_mib: int | None = Field(
        None,
        ge=0,
        description="How much a key's owner may have uploaded and merged, where the key does not "
        "say it.",
    )
    gpu_hours_per_day: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="How many GPU-hours a key's owner may have used in the last 24 hours when "
        "posting a run, where the key does not say it.",
    )
    hf_token: SecretStr | None = Field(
        None, description="Hugging Face token; reaches only the step that fetches a base model."
    )
    hf_endpoint: str | None = Field(
        None, description="Another hub to fetch base models from, such as a mirror in-house."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="What to train on; auto takes the GPU when the driver shows one."
    )
    playground_socket: Path | None = Field(
        None,
        description="The Unix socket on which the playground answers the API. Default: "
        "playground/sock in the home.",
    )
    playground_wait_seconds: Seconds = Field(
        10, description="How long a request waits while another one has the playground."
    )
    playground_idle_seconds: Seconds = Field(
        300,
        description="The playground's model leaves memory, and its GPU is free for trainings, "
        "when nobody has asked for this long.",
    )
    heartbeat_seconds: Seconds = Field(
        2, description="How often a worker renews its lease and reports progress."
    )
    lease_seconds: Seconds = Field(
        120, description="How long a run stays with a worker that has gone silent."
    )
    fence_seconds: Seconds = Field(
        90, description="A worker that cannot reach the database this long stops its training."
    )
    lease_grace_seconds: Seconds = Field(
        15, description="How long past its end a lease is left alone before the run is taken back."
    )
    stop_grace_seconds: Seconds = Field(
        5, description="How long a training process may take to stop before it is killed."
    )
    reconcile_seconds: Seconds = Field(
        10, description="How often lost workers and unoffered runs are looked for."
    )
    reoffer_seconds: Seconds = Field(
        60, description="A run still queued after this long is offered to the workers again."
    )
    drain_seconds: Seconds = Field(
        60,
        description="How long a worker that shuts down waits for its training to save a "
        "checkpoint; then it goes back to the one before.",
    )
    checkpoint_seconds: Seconds = Field(
        600, description="How much training a lost worker may cost: a checkpoint this often."
    )
    stall_seconds: Seconds = Field(
        1800, description="A training without a step for this long is stopped and tried again."
    )
    retry_backoff_seconds: Seconds = Field(
        30,
        description="How long the second retry without progress waits; each further one waits "
        "twice as long and this again. The first waits for nothing.",
    )
    sweep_grace_seconds: Seconds = Field(
        3600, description="How old files that nothing owns must be before they are removed."
    )
    keep_checkpoints_seconds: Seconds = Field(
        7 * 86400,
        description="How long the checkpoints of a failed or cancelled run are kept for a retry.",
    )
    scrub_seconds: Seconds = Field(
        7 * 86400,
        description="How often each stored adapter is read again and compared with its SHA-256.",
    )
    max_crashes: int = Field(
        3,
        ge=1,
        description="How often a run may crash before it fails; a new checkpoint starts the "
        "count again.",
    )
    min_free_disk_mib: int = Field(
        1024,
        ge=0,
        description="Below this much free space no training is started; below a quarter of it "
        "one under way is stopped, its checkpoint kept.",
    )

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: dict[str, Any]) -> dict[str, Any]:
        lists = {
            key: tuple(part for part in values[key].split(separator) if part)
            for key, separator in SEPARATORS.items()
            if isinstance(values.get(key), str)
        }
        return {**values, **lists}

    @model_validator(mode="after")
    def _timings_fit(self) -> Self:
        if self.heartbeat_seconds >= self.fence_seconds:
            raise ValueError(
                f"heartbeat_seconds {self.heartbeat_seconds:g} must stay below fence_seconds "
                f"{self.fence_seconds:g}, or every training would be stopped"
            )
        needed = self.fence_seconds + self.stop_grace_seconds + KILL_MARGIN
        if needed >= self.lease_seconds:
            raise ValueError(
                f"fence_seconds {self.fence_seconds:g} + stop_grace_seconds "
                f"{self.stop_grace_seconds:g} + {KILL_MARGIN:g} to kill what ignores it = "
                f"{needed:g} must stay below lease_seconds "
                f"{self.lease_seconds:g}, or two workers could train one run"
            )
        return self

    @model_validator(mode="after")
    def _passwords_have_urls(self) -> Self:
        for part in ("database", "broker"):
            if getattr(self, f"{part}_password") and not getattr(self, f"{part}_url"):
                raise ValueError(
                    f"FINLORA_{part.upper()}_PASSWORD is set, but FINLORA_{part.upper()}_URL, "
                    "which it belongs to, is not"
                )
            if (
                getattr(self, f"{part}_password")
                and not make_url(getattr(self, f"{part}_url")).username
            ):
                raise ValueError(
                    f"FINLORA_{part.upper()}_URL must name the user whose password is given, "
                    "as in redis://default@host:6379/0"
                )
        return self

    @field_validator("database_url", "broker_url")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        try:
            scheme = make_url(value or "sqlite://").drivername.split("+")[0]
        except ArgumentError:
            scheme = ""
        if scheme not in ("postgresql", "redis", "rediss", "sqlite"):
            raise ValueError(
                "must be like postgresql://user@host/name or redis://user@host:6379/0"
            )
        return value

    @field_validator("rate_limit")
    @classmethod
    def _is_rate(cls, value: str) -> str:
        try:
            if value == "off" or (len(rates := parse_many(value)) == 1 and rates[0].amount > 0):
                return value
        except ValueError:
            pass
        raise ValueError("must be like 10/second or 600/minute, or off")

    @property
    def adapters(self) -> Path:
        return _absolute(self.adapters_dir or self.home / "lora_adaptors")

    @property
    def runs(self) -> Path:
        return _absolute(self.runs_dir or self.home / "runs")

    @property
    def uploads(self) -> Path:
        return _absolute(self.uploads_dir or self.home / "uploads")

    @property
    def datasets(self) -> tuple[Path, ...]:
        return _resolved(self.dataset_roots) or (self.home / "datasets",)

    @property
    def models(self) -> tuple[Path, ...]:
        return _resolved(self.models_dirs) or (self.home / "models",)

    @property
    def fetched_models(self) -> Path:
        """Copies from the hub, one folder a model."""
        return self.home / "hub"

    @property
    def redis_socket(self) -> Path:
        return self.home / "redis" / "redis.sock"

    @property
    def playground(self) -> Path:
        """The socket."""
        named = self.playground_socket or self.home / "playground" / "sock"
        return _absolute(named)

    @property
    def database(self) -> URL:
        """The URL to connect to, its password included: never log it."""
        url = make_url(self.database_url or f"sqlite:///{self.home / 'finlora.db'}")
        return _with_password(url, self.database_password)

    @property
    def broker(self) -> str:
        """The URL to connect to, its password included: never log it."""
        url = self.broker_url or f"redis+socket://{self.redis_socket}"
        if self.broker_password is None:
            return url
        known = _with_password(make_url(url), self.broker_password)
        return known.render_as_string(hide_password=False)

    def environment(self) -> Mapping[str, str]:
        """The same settings as variables for a child process, its paths absolute."""
        values = dict(self)
        values |= {"adapters_dir": self.adapters, "runs_dir": self.runs}
        values |= {"dataset_roots": self.datasets, "models_dirs": self.models}
        values |= {"uploads_dir": self.uploads, "playground_socket": self.playground}
        return {
            f"FINLORA_{name.upper()}": _as_text(value)
            for name, value in values.items()
            if value is not None
        }


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        separator = ":" if value and isinstance(value[0], Path) else ","
        return separator.join(map(str, value))
    return str(value)


def _resolved(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    return tuple(map(_absolute, paths))


def _with_password(url: URL, password: SecretStr | None) -> URL:
    return url.set(password=password.get_secret_value().strip()) if password else url


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment and the secrets folder; `overrides` win.

    Raises `InvalidSettings` naming each variable that cannot be used.
    """
    secrets = SECRETS_DIR if SECRETS_DIR.is_dir() else None
    try:
        return Settings(_secrets_dir=secrets, **overrides)  # type: ignore[call-arg]
    except ValidationError as error:
        raise InvalidSettings("; ".join(map(_explain, error.errors()))) from None


def _explain(problem: Any) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    return f"FINLORA_{problem['loc'][0].upper()}: {message}" if problem["loc"] else message
