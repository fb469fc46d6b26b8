"""The configuration of the controller's programs: read, merged, checked, in one place.

Three layers, later ones win: the packaged ``propius/global_config.yml`` (which explains every key),
the file given with ``--config``, environment variables ``PROPIUS_<SECTION>__<KEY>``. A key that is
unknown, given twice, or out of range raises :class:`ConfigError`, whose text is one line with the
place and the dotted name of the key.

>>> load_config(env={"PROPIUS_SCHEDULER__POLICY": "fifo"}).scheduler.policy
'fifo'

Not here: what the values mean to a daemon (each core has its own small settings class), and the
evaluation's configuration. A device's SDK never reads this.
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from propius.errors import PropiusError
from propius.messages import DEMAND_MAX, DIMENSIONS_MAX, DURATION_S_MAX, TASKS_MAX, Schema

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["DEFAULTS", "Config", "ConfigError", "StrictBooleans", "config_yaml", "load_config"]

DEFAULTS: Final = "propius/global_config.yml"  # how messages name the packaged file
ENV_PREFIX: Final = "PROPIUS_"

Port = Annotated[int, Field(ge=0, le=65_535)]
Positive = Annotated[float, Field(gt=0, le=DURATION_S_MAX, allow_inf_nan=False)]
Limit = Annotated[int, Field(ge=1, le=100_000_000)]


class ConfigError(PropiusError):
    """The configuration cannot be used; the text is one line: where, which key, what to do."""


def _not_empty(value: object) -> object:
    if value is None or value == "":
        raise ValueError("must not be empty")
    return value


class StrictBooleans(BaseModel):
    """A model whose numbers are no truth values.

    YAML reads ``yes``, ``on`` and ``true`` as a truth value, which pydantic takes for a 1.
    """

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        kind = cls.model_fields[info.field_name or ""].annotation
        if kind is not bool and not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            _refuse_booleans(value)
        return value


def _refuse_booleans(value: object) -> None:
    if isinstance(value, bool):
        word = "true (or yes, on)" if value else "false (or no, off)"
        raise ValueError(f"must not be {word}: write a number, or a word in quotes")
    parts = value.values() if isinstance(value, Mapping) else value
    if isinstance(parts, Iterable) and not isinstance(parts, str | bytes):
        for part in parts:
            _refuse_booleans(part)


class _Section(StrictBooleans):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Attribute(_Section):
    """A public attribute and the greatest value that counts."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    max: Annotated[float, Field(gt=0, le=1e15, allow_inf_nan=False)]


class AttributeSchema(_Section):
    """The attributes in the order of every vector."""

    attributes: Annotated[tuple[Attribute, ...], Field(min_length=1, max_length=DIMENSIONS_MAX)]


class LogConfig(_Section):
    """The programs' own log, on standard error."""

    level: Literal["debug", "info", "warning", "error"]
    format: Literal["json", "console", "auto"]


class EventLogConfig(_Section):
    """The log of all inputs of all decisions; "" is off."""

    directory: str


class StoreConfig(_Section):
    """The job manager's store; path "" means ``propius.db`` in the state directory."""

    kind: Literal["sqlite"]
    path: str
    durability: Literal["process", "power"]


class AdminConfig(_Section):
    """Where health and metrics are served."""

    host: str


class JobManagerConfig(_Section):
    """Ports and limits of the job manager."""

    host: str
    port: Port
    inside_port: Port
    admin_port: Port
    lease_default_s: Positive
    lease_max_s: Positive
    lease_grace_s: Positive
    job_silence_max_s: Positive
    keep_finished_s: Positive
    keep_finished_max: Limit
    jobs_max: Limit
    backoff_after: Limit
    backoff_first_s: Positive
    backoff_max_s: Positive
    backoff_probes: Limit
    backoffs_max: Limit
    device_pause_first_s: Positive
    device_pause_max_s: Positive


class SchedulerConfig(_Section):
    """Port and policy of the scheduler."""

    host: str
    port: Port
    admin_port: Port
    policy: Annotated[str, Field(min_length=1, max_length=128)]
    policy_options: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    seed: Annotated[int, Field(ge=0, lt=1 << 63)]
    supply_window_s: Positive
    plan_interval_ms: Annotated[int, Field(ge=1, le=60_000)]
    replan_s: Positive


class LoadBalancerConfig(_Section):
    """Ports and limits of the load balancer."""

    host: str
    port: Port
    inside_port: Port
    admin_port: Port
    pending_max: Limit
    pending_per_connection_max: Limit


class ClientManagerConfig(_Section):
    """Limits of a client manager."""

    admin_port_base: Port
    tasks_per_offer_max: Annotated[int, Field(ge=1, le=TASKS_MAX)]
    offer_timeout_s: Positive
    waiting_max: Annotated[int, Field(ge=1, le=100 * DEMAND_MAX)]
    claim_timeout_s: Positive
    retry_min_s: Positive
    retry_max_s: Positive


class Config(_Section):
    """All of it, checked. Immutable; made by :func:`load_config`."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_alias=True)

    attribute_schema: Annotated[AttributeSchema, Field(alias="schema")]
    security: Literal["loopback", "none"]
    state_dir: Annotated[Path, BeforeValidator(_not_empty)]
    log: LogConfig
    event_log: EventLogConfig
    store: StoreConfig
    admin: AdminConfig
    job_manager: JobManagerConfig
    scheduler: SchedulerConfig
    load_balancer: LoadBalancerConfig
    client_manager: ClientManagerConfig

    @property
    def schema_message(self) -> Schema:
        """The attribute schema as devices and jobs get it; its id is a hash of its content."""
        attributes = [(a.name, float(a.max)) for a in self.attribute_schema.attributes]
        digest = hashlib.sha256(json.dumps(attributes).encode()).hexdigest()
        return Schema(schema=digest[:16], attributes=attributes)

    @property
    def store_path(self) -> Path:
        """The store's file."""
        return Path(self.store.path) if self.store.path else self.state_dir / "propius.db"

    def client_manager_admin_port(self, manager: int) -> int:
        """The admin port of a client manager; 0 = any free port."""
        base = self.client_manager.admin_port_base
        return base + manager if base else 0


def load_config(path: str | Path | None = None, env: Mapping[str, str] = os.environ) -> Config:
    """The configuration of the packaged defaults, this file, and this environment.

    Raises :class:`ConfigError`.
    """
    values, places = _packaged()
    if path is not None:
        changed, changed_places = _read(_file_text(path), str(path))
        values = _merge(values, changed, "", changed_places)
        places |= changed_places
    for name, key, value in _from_env(env, values):
        values = _merge(values, _nested(key, value), "", {})
        places[key] = f"environment variable {name}"
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_first_line(error, places)) from None
    _check(config, places)
    return config


def config_yaml(values: Mapping[str, Any]) -> str:
    """A configuration file with these (nested) values."""
    text: str = yaml.safe_dump(dict(values), sort_keys=False, default_flow_style=False)
    return text


# --- YAML with places, and without surprises ---------------------------------------------------


def _packaged() -> tuple[dict[str, Any], dict[str, str]]:
    text = resources.files("propius").joinpath("global_config.yml").read_text("utf-8")
    return _read(text, DEFAULTS)


def _file_text(path: str | Path) -> str:
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from None


def _read(text: str, name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of a YAML text, and the place (FILE:LINE) of each dotted key."""
    places: dict[str, str] = {}
    loader: yaml.SafeLoader | None = None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        values = _build(loader, root, "", name, places) if root is not None else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(f"{name}{line}: not valid YAML: {problem}") from None
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(values, dict):
        raise ConfigError(f"{name}: must be sections of keys, as in {DEFAULTS}")
    return values, places


def _build(
    loader: yaml.SafeLoader, node: yaml.Node, path: str, name: str, places: dict[str, str]
) -> Any:
    """Like PyYAML's own, but an equal key twice is an error (PyYAML keeps the last)."""
    places.setdefault(path, f"{name}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.SequenceNode):
        return [
            _build(loader, item, f"{path}.{number}", name, places)
            for number, item in enumerate(node.value)
        ]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(getattr(key_node, "value", "?"))
        dotted = f"{path}.{key}".lstrip(".")
        place = f"{name}:{key_node.start_mark.line + 1}"
        if key in values:
            raise ConfigError(f"{place}: {dotted}: given twice (first at {places[dotted]})")
        places[dotted] = place
        values[key] = _build(loader, value_node, dotted, name, places)
    return values


def _merge(
    below: dict[str, Any], above: dict[str, Any], path: str, places: Mapping[str, str]
) -> dict[str, Any]:
    """``above`` over ``below``, section by section; a list replaces a list."""
    merged = dict(below)
    for key, value in above.items():
        old = below.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merge(old, value, f"{path}{key}.", places)
        elif isinstance(old, dict) and value is None:
            continue  # a section whose keys are all commented out
        else:
            merged[key] = value
    return merged


def _from_env(env: Mapping[str, str], known: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """(variable, dotted key, value) of the variables that are meant for us.

    PROPIUS_TEST_DATA and the like are not: no section has that name and there is no ``__``.
    """
    for name in sorted(env):
        if not name.startswith(ENV_PREFIX):
            continue
        parts = name.removeprefix(ENV_PREFIX).lower().split("__")
        if len(parts) == 1 and (parts[0] not in known or isinstance(known[parts[0]], dict)):
            continue
        try:
            value = yaml.safe_load(env[name]) if env[name] else ""
        except yaml.YAMLError:
            raise ConfigError(f"environment variable {name}: not a YAML value") from None
        yield name, ".".join(parts), value


def _nested(dotted: str, value: Any) -> dict[str, Any]:
    for part in reversed(dotted.split(".")):
        value = {part: value}
    nested: dict[str, Any] = value
    return nested


# --- errors and rules that concern more than one key -----------------------------------------


def _first_line(error: ValidationError, places: Mapping[str, str]) -> str:
    """The first complaint, as PLACE: KEY: WHAT."""
    complaints = error.errors(include_url=False)
    first = complaints[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        what = "unknown key" + _did_you_mean(key)
    elif first["type"] == "missing":
        what = "missing" + _misspelt(key, complaints)
    else:
        shown = repr(first.get("input"))[:60]
        said = first["msg"].removeprefix("Value error, ")
        what = f"{said[0].lower()}{said[1:]}, not {shown}"
    more = error.error_count() - 1
    others = f" (and {more} more)" if more else ""
    return f"{_place(key, places)}{key}: {what}{others}"


def _place(key: str, places: Mapping[str, str]) -> str:
    inside = [place for name, place in places.items() if name.startswith(f"{key}.")]
    if key not in places and inside:
        return f"{inside[0]}: "  # a section that only a variable names
    while key and key not in places:
        key = key.rpartition(".")[0]
    return f"{places[key]}: " if key else ""


def _did_you_mean(key: str) -> str:
    *sections, last = key.split(".")
    known: Any = _packaged()[0]
    for section in sections:
        known = known.get(section, {}) if isinstance(known, dict) else {}
    close = difflib.get_close_matches(last, known, n=1) if isinstance(known, dict) else []
    return f"; did you mean {'.'.join([*sections, close[0]])}?" if close else ""


def _misspelt(key: str, complaints: Sequence[ErrorDetails]) -> str:
    """The unknown key beside a missing one that was probably meant to be it."""
    section, _, last = key.rpartition(".")
    unknown = [
        ".".join(map(str, each["loc"])) for each in complaints if each["type"] == "extra_forbidden"
    ]
    beside = [name.rpartition(".")[2] for name in unknown if name.rpartition(".")[0] == section]
    close = difflib.get_close_matches(last, beside, n=1)
    return f"; is it the unknown key {section}.{close[0]}?" if close else ""


def _check(config: Config, places: Mapping[str, str]) -> None:
    for key, what in _complaints(config):
        raise ConfigError(f"{_place(key, places)}{key}: {what}")


def _policy_complaints(scheduler: SchedulerConfig) -> Iterator[tuple[str, str]]:
    """Asks the engine; a policy of the operator's own is not imported here, only its options."""
    # The core is not loaded by who only reads addresses of the packaged configuration.
    from propius import engine

    policy = scheduler.policy
    if ":" not in policy and policy not in engine.POLICIES:
        known = ", ".join(engine.POLICIES)
        yield "scheduler.policy", f"unknown policy {policy!r}, known are {known}"
    for name, value in scheduler.policy_options.items():
        try:
            engine.Planner(policy="fifo", dimensions=1, options={name: value})
        except engine.EngineError as error:
            key = f"scheduler.policy_options.{name}"
            yield (key if name in engine.POLICY_OPTIONS else "scheduler.policy_options"), str(error)
        if name in SchedulerConfig.model_fields:
            yield f"scheduler.policy_options.{name}", f"is set by scheduler.{name}"


def _complaints(config: Config) -> Iterator[tuple[str, str]]:
    yield from _policy_complaints(config.scheduler)
    for section in ("job_manager", "scheduler", "load_balancer", "admin"):
        host = getattr(config, section).host
        yield from _host_complaints(f"{section}.host", host, config.security)
    manager = config.job_manager
    if manager.lease_default_s > manager.lease_max_s:
        yield "job_manager.lease_default_s", "greater than job_manager.lease_max_s"
    if config.client_manager.retry_min_s > config.client_manager.retry_max_s:
        yield "client_manager.retry_min_s", "greater than client_manager.retry_max_s"
    names = [a.name for a in config.attribute_schema.attributes]
    for name in names:
        if names.count(name) > 1:
            yield "schema.attributes", f"attribute {name} is listed twice"
    seen: dict[int, str] = {0: ""}
    for section in ("job_manager", "scheduler", "load_balancer"):
        for key in ("port", "inside_port", "admin_port"):
            port = getattr(getattr(config, section), key, 0)
            if seen.get(port):
                yield f"{section}.{key}", f"port {port} is also {seen[port]}"
            seen.setdefault(port, f"{section}.{key}")


def _host_complaints(key: str, host: str, security: str) -> Iterator[tuple[str, str]]:
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        yield key, f"must be an IP address or localhost, not {host!r}"
        return
    if security == "loopback" and not loopback:
        reason = "nothing is encrypted and no device is authenticated"
        yield key, f"{host} can be reached from other machines: needs `security: none` ({reason})"
