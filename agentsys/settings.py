"""Settings: flag > environment (``AGENTSYS_*``) > ``agentsys.toml`` > default. Unknown keys are errors."""

from __future__ import annotations

import os
import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, get_origin

import platformdirs
from pydantic import (
    BaseModel,
    Field,
    StringConstraints,
    ValidationError,
)

from agentsys.errors import ConfigurationError
from agentsys.sections import (
    A2ASettings,
    ApprovalSettings,
    BoardSettings,
    FetchSettings,
    FilesSettings,
    LakeSettings,
    McpSettings,
    MemoSettings,
    ModelSettings,
    NamedModelSettings,
    PrincipalSettings,
    PythonSettings,
    RunSettings,
    ScheduleSettings,
    SecretSettings,
    Section,
    ServerSettings,
    ToolSettings,
)
from agentsys.serving.weights.catalogue import DEFAULT_MODEL, weights_of

ENVIRONMENT_PREFIX = "AGENTSYS_"
SETTINGS_FILE = "agentsys.toml"

DATABASE_SCHEMES = ("postgresql://", "postgres://")

_CREDENTIALS: Final = re.compile(r"(?<=://)[^/?#\s]+(?=@)")
_MEND = "Mend that where it stands; then `agentsys config show` lists every setting, and where its value comes from."
_ALIKE = 0.75
"""How much like a setting's a mistaken key must be, from 0 to 1."""

SECRET_NAMES = frozenset({"api_key", "token"})
"""Last parts of the keys whose values are never shown."""


def is_secret(key: str) -> bool:
    """Whether the value of a dotted key is never shown: a database's address may hold its password, and whoever
    mistakes where a secret goes may have written it there.
    """
    return key == "board.url" or key.startswith("secrets.") or key.rpartition(".")[2] in SECRET_NAMES


def without_credentials(value: Any) -> Any:
    """Return a value of JSON as it may be shown: of addresses within it, not who asks there, and by which password."""
    if isinstance(value, str):
        return _CREDENTIALS.sub("(hidden)", value)
    if isinstance(value, dict):
        return {key: without_credentials(item) for key, item in value.items()}
    return [without_credentials(item) for item in value] if isinstance(value, list) else value


class Settings(Section):
    """All settings. Environment names join section and key with two underscores: ``AGENTSYS_MODEL__NAME``."""

    models_dir: Path = Field(
        default_factory=lambda: platformdirs.user_cache_path("agentsys") / "models", description="pulled weights"
    )
    policy: Path | None = Field(None, description="the policy's TOML file, or builtin; default: trusts the owner alone")
    model: ModelSettings = Field(default_factory=ModelSettings)
    models: dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], NamedModelSettings] = (
        Field(default_factory=dict, description="more models, by the names that calls use")
    )
    schedule: ScheduleSettings = Field(default_factory=ScheduleSettings)
    board: BoardSettings = Field(default_factory=BoardSettings)
    lake: LakeSettings = Field(default_factory=LakeSettings)
    run: RunSettings = Field(default_factory=RunSettings)
    memo: MemoSettings = Field(default_factory=MemoSettings)
    approvals: ApprovalSettings = Field(default_factory=ApprovalSettings)
    server: ServerSettings = Field(default_factory=ServerSettings)
    principals: dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_:@-]+$")], PrincipalSettings] = Field(
        default_factory=dict, description="who else may call the server, by name; NAME is the principal user:NAME"
    )
    a2a: A2ASettings = Field(default_factory=A2ASettings)
    mcp: McpSettings = Field(default_factory=McpSettings)
    tools: ToolSettings = Field(default_factory=ToolSettings)
    python: PythonSettings = Field(default_factory=PythonSettings)
    fetch: FetchSettings = Field(default_factory=FetchSettings)
    files: FilesSettings = Field(default_factory=FilesSettings)
    secrets: dict[
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]+([_-][A-Za-z0-9]+)*$", max_length=64)], SecretSettings
    ] = Field(default_factory=dict, description="secrets that tools may be given, by name")

    @property
    def default_specs(self) -> tuple[str, ...]:
        """What the replicas of the default model are made of: those of the table of [models] that model.name names."""
        named = self.models.get(self.model.name)
        return (self.model.name, *self.model.replicas) if named is None else named.specs

    @property
    def runs_smallest(self) -> bool:
        """Whether the default model is the small one that every installation can run, in this process."""
        return any(weights_of(spec) == DEFAULT_MODEL for spec in self.default_specs)

    RESERVED_ENVIRONMENT: ClassVar[frozenset[str]] = frozenset(
        {"AGENTSYS_CONFIG", "AGENTSYS_NATIVE_KERNELS", "AGENTSYS_URL", "AGENTSYS_TOKEN"}
    )


class LoadedSettings(BaseModel):
    """Settings with the source of each value, by dotted key (``model.name`` → ``environment``)."""

    settings: Settings
    sources: dict[str, str]


def load_settings(
    flags: dict[str, Any] | None = None, *, directory: Path | None = None, environment: dict[str, str] | None = None
) -> LoadedSettings:
    """Merge all sources. ``flags`` maps dotted keys to values; ``None`` values are ignored.

    Raises :class:`ConfigurationError` naming every unknown key and bad value at once, each with its source.
    """
    environment = dict(os.environ) if environment is None else environment
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    path = Path(environment.get("AGENTSYS_CONFIG", (directory or Path.cwd()) / SETTINGS_FILE))
    layers = [
        (str(path), _from_file(path, required="AGENTSYS_CONFIG" in environment)),
        ("environment", _from_environment(environment)),
        ("flag", {key: value for key, value in (flags or {}).items() if value is not None}),
    ]
    for source, layer in layers:
        for key, value in _one_board(layer, values).items():
            values[key] = value
            sources[key] = source
    try:
        settings = Settings.model_validate(_nest(values, sources))
    except ValidationError as error:
        raise ConfigurationError(_explain(error, sources), remedy=_MEND) from error
    return LoadedSettings(settings=settings, sources={key: _source_of(key, sources) for key in flatten(settings)})


def _source_of(key: str, sources: dict[str, str]) -> str:
    """Return where a value comes from; of a table, where the last of its keys does."""
    within = [source for known, source in sources.items() if known == key or known.startswith(f"{key}.")]
    return within[-1] if within else "default"


def _one_board(layer: dict[str, Any], weaker: dict[str, Any]) -> dict[str, Any]:
    """Return ``layer`` with the board's address under its own key, and without that of a ``weaker`` source's board."""
    path = layer.get("board.path")
    if isinstance(path, str) and path.startswith(DATABASE_SCHEMES):
        return {**{key: value for key, value in layer.items() if key != "board.path"}, "board.url": path}
    return {"board.url": None, **layer} if path is not None and "board.url" in weaker else layer


def flatten(settings: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Return ``{"model.name": value, …}`` over all sections."""
    flat: dict[str, Any] = {}
    for key in type(settings).model_fields:
        value = getattr(settings, key)
        if isinstance(value, BaseModel):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _from_file(path: Path, *, required: bool) -> dict[str, Any]:
    if not path.exists():
        if required:
            raise ConfigurationError(f"AGENTSYS_CONFIG names {path}, which does not exist.")
        return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"{path} cannot be read as TOML: {error}.", remedy=_MEND) from error
    return _flat(tables, Settings, "")


def _flat(table: dict[str, Any], section: object, prefix: str) -> dict[str, Any]:
    """Return the values of a table by dotted key; tables that are no section, and unknown ones, count as values."""
    flat: dict[str, Any] = {}
    fields = section.model_fields if isinstance(section, type) and issubclass(section, BaseModel) else {}
    for key, value in table.items():
        within = fields[key].annotation if key in fields else None
        if isinstance(value, dict) and ((isinstance(within, type) and issubclass(within, BaseModel)) or not prefix):
            flat |= _flat(value, within, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _from_environment(environment: dict[str, str]) -> dict[str, Any]:
    names = [name for name in environment if name.startswith(ENVIRONMENT_PREFIX)]
    return {
        name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", "."): environment[name]
        for name in names
        if name not in Settings.RESERVED_ENVIRONMENT and not name.startswith("AGENTSYS_TEST_")
    }


def _nest(flat: dict[str, Any], sources: dict[str, str]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for dotted, value in flat.items():
        *sections, key = _parts(dotted, value)
        table = nested
        for depth, section in enumerate(sections, 1):
            inner = table.setdefault(section, {})
            if not isinstance(inner, dict):
                raise _clash(".".join(sections[:depth]), dotted, sources)
            table = inner
        if isinstance(table.get(key), dict) and not isinstance(value, dict):
            within = (other for other in flat if other.startswith(f"{dotted}."))
            raise _clash(dotted, next(within, dotted.rpartition(".")[0]), sources)
        table[key] = value
    return nested


def _clash(outer: str, inner: str, sources: dict[str, str]) -> ConfigurationError:
    return ConfigurationError(
        f"Bad settings: {outer} (from {_where(outer, sources)}) is a table, as {inner} (from {_where(inner, sources)}) "
        "has it, and is given a single value."
    )


def _parts(dotted: str, value: Any) -> list[str]:
    """Return the keys that lead to a value. The name of a table of [models] may itself hold dots."""
    first, _, name = dotted.partition(".")
    field = Settings.model_fields.get(first)
    whole = isinstance(value, dict) and name and field is not None and get_origin(field.annotation) is dict
    return [first, name] if whole else dotted.split(".")


def _where(key: str, sources: dict[str, str]) -> str:
    """Return the source of a value, or of the innermost table around it that has one; of a table, that of its keys."""
    parts = key.split(".")
    around = (".".join(parts[:depth]) for depth in range(len(parts), 0, -1))
    return next((sources[outer] for outer in around if outer in sources), _source_of(key, sources))


def _shown(key: str, value: object) -> str:
    """Return a wrong value as a message may quote it: of a secret nothing, of a table, which may hold one, the keys."""
    if is_secret(key) or key.endswith(".token_hash"):
        return "(hidden)"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "a list of tables"
    return f"a table of {', '.join(map(str, value))}" if isinstance(value, dict) else repr(without_credentials(value))


def _keys_within(section: str) -> str:
    """Return the keys of a section as they are written out, or nothing where it has no keys of its own."""
    field = Settings.model_fields.get(section)
    return ", ".join(f"{section}.{key}" for key in getattr(field and field.annotation, "model_fields", ()))


def _perhaps(key: str) -> str:
    """Return which setting a mistaken key may have meant."""
    known = [*flatten(Settings()), *Settings.model_fields]
    return "".join(f", perhaps {close} is meant" for close in get_close_matches(key, known, 1, _ALIKE))


def _explain(error: ValidationError, sources: dict[str, str]) -> str:
    faults = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"])
        where = _where(key, sources)
        if fault["type"] == "extra_forbidden":
            # Without its value: whoever mistook the key may have written a secret there.
            faults.append(f"{key} (from {where}): unknown key{_perhaps(key)}")
        elif fault["type"] == "model_type" and (keys := _keys_within(key)):
            faults.append(f"{key} = {_shown(key, fault['input'])} (from {where}): a table, whose keys are {keys}")
        else:
            faults.append(f"{key} = {_shown(key, fault['input'])} (from {where}): {fault['msg']}")
    return "Bad settings: " + "; ".join(faults) + "."
