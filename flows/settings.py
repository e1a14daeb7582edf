"""Where settings come from: flags, then SPLITFIRE_* in the environment, then splitfire.toml, then defaults.

    [separation]
    model = "spleeter-2stems"
    [runtime.storage."s3://my-bucket"]
    endpoint_url = "https://minio.example.com"

The same in the environment: SPLITFIRE_SEPARATION__MODEL=spleeter-2stems.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from splitfire_batch.config import (
    CatalogueConfig,
    OutputConfig,
    RuntimeConfig,
    SeparationConfig,
    explain,
)
from splitfire_batch.errors import ConfigError

DEFAULT_FILE = Path("splitfire.toml")
SECTIONS = {
    "separation": SeparationConfig,
    "output": OutputConfig,
    "catalogue": CatalogueConfig,
    "runtime": RuntimeConfig,
}


class Settings(BaseSettings):
    """All settings of a job but its source and destination."""

    model_config = SettingsConfigDict(
        env_prefix="SPLITFIRE_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    separation: SeparationConfig = SeparationConfig()
    output: OutputConfig = OutputConfig()
    catalogue: CatalogueConfig = CatalogueConfig()
    runtime: RuntimeConfig = RuntimeConfig()


def load_settings(flags: dict[str, dict[str, Any]], file: Path | None = None) -> Settings:
    """Settings from every place they can come from.

    Args:
        flags: by section, only what was given on the command line.
        file: a TOML file; default: splitfire.toml in the working folder, if there is one.

    Raises:
        ConfigError: a missing or malformed file, an unknown key, a value out of its range.
    """
    if file is not None and not file.is_file():
        raise ConfigError(f"there is no settings file {file}")
    path = file or DEFAULT_FILE

    class Layered(Settings):
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

    try:
        return Layered(**flags)  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(item) for item in error.errors())) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}") from None
    except SettingsError as error:
        raise ConfigError(f"SPLITFIRE_* in the environment: {error}") from None


def _explain(item: Any) -> str:
    section = str(item["loc"][0])
    if section not in SECTIONS:
        return f"{section!r} is no section of the settings; known are {', '.join(SECTIONS)}"
    return f"{section}: {explain(SECTIONS[section], {**item, 'loc': item['loc'][1:]})}"
