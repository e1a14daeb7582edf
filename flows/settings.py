"""Where settings come from: flags, then SPLITFIRE_* in the environment, then splitfire.toml, then defaults.

    [separation]
    model = "spleeter-2stems"
    [runtime.storage."s3://my-bucket"]
    endpoint_url = "https://minio.example.com"

The same in the environment: SPLITFIRE_SEPARATION__MODEL=spleeter-2stems.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from splitfire_batch.config import (
    CatalogueConfig,
    OutputConfig,
    RuntimeConfig,
    SeparationConfig,
    explain,
)
from splitfire_batch.errors import ConfigError

if TYPE_CHECKING:
    from splitfire_batch.job import Job

DEFAULT_FILE = Path("splitfire.toml")
_ENV_PREFIX = "SPLITFIRE_"
SECTIONS = {
    "separation": SeparationConfig,
    "output": OutputConfig,
    "catalogue": CatalogueConfig,
    "runtime": RuntimeConfig,
}


class Settings(BaseModel):
    """All settings of a job but its source and destination."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    separation: SeparationConfig = Field(default_factory=SeparationConfig)
    output: OutputConfig = Field(default_factory=OutputConfig)
    catalogue: CatalogueConfig = Field(default_factory=CatalogueConfig)
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig)

    def job(
        self,
        source: str,
        destination: str,
        replace: bool,
        retry: tuple[str, ...] | None = None,
        saved_plan: str | None = None,
    ) -> Job:
        """The job with these settings; ConfigError when a URL of it holds a secret."""
        from splitfire_batch.job import Job  # it brings pyarrow, which `--help` does not need
        from splitfire_batch.storage.urls import refuse_secrets

        configs = (self.separation, self.output, self.catalogue, self.runtime)
        job = Job(source, destination, *configs, replace, retry, saved_plan)
        refuse_secrets(*job.urls)  # before Prefect stores the parameters
        return job


def load_settings(flags: dict[str, dict[str, Any]], file: Path | None = None) -> Settings:
    """Settings from every place they can come from; the models of `runtime.registry` are known from then on.

    Args:
        flags: by section, only what was given on the command line.
        file: a TOML file; default: splitfire.toml in the working folder, if there is one.

    Raises:
        ConfigError: a missing or malformed file, an unknown key, a value out of its range, or a registry of
            models that is wrong.
    """
    from pydantic_settings import SettingsError  # it loads asyncio too, which `--help` need not wait for

    if file is not None and not file.is_file():
        raise ConfigError(f"there is no settings file {file}")
    path = file or DEFAULT_FILE
    _check_environment()
    try:
        settings = _from_everywhere(flags, path)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(item) for item in error.errors())) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}") from None
    except SettingsError as error:
        raise ConfigError(
            f"SPLITFIRE_* in the environment: {error}; lists and mappings are JSON, such as "
            """SPLITFIRE_SEPARATION__STEMS='["vocals"]'"""
        ) from None
    if settings.runtime.registry is not None:
        from splitfire_batch.models import use_registry

        use_registry(settings.runtime)
    return settings


def _from_everywhere(flags: dict[str, dict[str, Any]], path: Path) -> Settings:
    """Settings in layers; raises what pydantic does."""
    from pydantic_settings import (
        BaseSettings,
        PydanticBaseSettingsSource,
        SettingsConfigDict,
        TomlConfigSettingsSource,
    )

    class Layered(Settings, BaseSettings):
        model_config = SettingsConfigDict(env_prefix=_ENV_PREFIX, env_nested_delimiter="__")

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, path)

    return Layered(**flags)  # type: ignore[arg-type]


def expected_workers(runtime: RuntimeConfig) -> int:
    """How many actors there may be, before Ray is asked: enough shards are cut for them."""
    return runtime.workers or (16 if runtime.ray else max(1, (os.cpu_count() or 1) // 2))


def _check_environment() -> None:
    """Refuse a section that does not exist; pydantic would pass over it in silence."""
    for name in os.environ:
        section, mark, _ = name.upper().removeprefix(_ENV_PREFIX).partition("__")
        if name.upper().startswith(_ENV_PREFIX) and mark and section.lower() not in SECTIONS:
            raise ConfigError(f"{name} in the environment: {_no_section(section.lower())}")


def _explain(item: Any) -> str:
    section = str(item["loc"][0])
    if section not in SECTIONS:
        return _no_section(section)
    return f"{section}: {explain(SECTIONS[section], {**item, 'loc': item['loc'][1:]})}"


def _no_section(name: str) -> str:
    return f"{name!r} is no section of the settings; known are {', '.join(SECTIONS)}"
