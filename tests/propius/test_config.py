"""The configuration: defaults, layers, and one line for each kind of mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from propius.config import ConfigError, config_yaml, load_config


def load(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> str:
    """The one line that a file with this text is refused with."""
    file = tmp_path / "c.yml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file, env or {})
    line = str(caught.value)
    assert "\n" not in line
    return line.removeprefix(f"{file}:")


def test_packaged_defaults_are_right_and_local() -> None:
    """Out of the box everything binds to loopback, and the store is beside the state."""
    config = load_config(env={})
    assert config.security == "loopback"
    assert {config.job_manager.host, config.load_balancer.host, config.scheduler.host} == {
        "127.0.0.1"
    }
    assert config.store_path == config.state_dir / "propius.db"
    assert config.client_manager_admin_port(3) == 50_113


def test_layers_win_in_order(tmp_path: Path) -> None:
    """Environment over file over defaults, key by key."""
    file = tmp_path / "c.yml"
    file.write_text("scheduler:\n  policy: fifo\n  seed: 5\nlog:\n")
    config = load_config(file, {"PROPIUS_SCHEDULER__SEED": "7", "PROPIUS_STATE_DIR": "/s"})
    assert (config.scheduler.policy, config.scheduler.seed) == ("fifo", 7)
    assert config.state_dir == Path("/s")
    assert config.scheduler.supply_window_s == 600


def test_other_variables_with_our_prefix_are_ignored() -> None:
    """A variable that names no section is none of ours."""
    load_config(env={"PROPIUS_TEST_DATA": "x", "PROPIUS_CONFIG": "y", "PROPIUS_SCHEDULER": "z"})


def test_schema_id_follows_names_and_maxima(tmp_path: Path) -> None:
    """Two systems with the same attributes agree on the id, others do not."""
    file = tmp_path / "c.yml"
    file.write_text("schema: {attributes: [{name: ram, max: 16}]}")
    one, again = load_config(file).schema_message, load_config(file).schema_message
    assert one == again
    assert one.attributes == [("ram", 16.0)]
    file.write_text("schema: {attributes: [{name: ram, max: 17}]}")
    assert load_config(file).schema_message.schema != one.schema


def test_shown_configuration_loads_as_itself(tmp_path: Path) -> None:
    """What `config show` prints can be given back."""
    config = load_config(env={})
    file = tmp_path / "c.yml"
    file.write_text(config_yaml(config.model_dump(mode="json", by_alias=True)))
    assert load_config(file, {}) == config


def test_misspelt_key_is_named_with_a_suggestion(tmp_path: Path) -> None:
    """File, line, dotted key, and the key that was probably meant."""
    line = load(tmp_path, "log:\n  level: info\nscheduler:\n  polcy: irs\n")
    assert line == "4: scheduler.polcy: unknown key; did you mean scheduler.policy?"


def test_misspelt_section_is_named(tmp_path: Path) -> None:
    """Sections are checked like keys."""
    assert load(tmp_path, "schedler: {policy: irs}") == (
        "1: schedler: unknown key; did you mean scheduler?"
    )


def test_duplicate_key_is_refused(tmp_path: Path) -> None:
    """PyYAML would silently take the last one."""
    line = load(tmp_path, "scheduler:\n  seed: 1\n  seed: 2\n")
    assert line.startswith("3: scheduler.seed: given twice")


@pytest.mark.parametrize(
    "key,text",
    [
        ("scheduler.port", "scheduler: {port: 65536}"),
        ("scheduler.plan_interval_ms", "scheduler: {plan_interval_ms: 0}"),
        ("job_manager.lease_default_s", "job_manager: {lease_default_s: -1}"),
        ("job_manager.lease_grace_s", "job_manager: {lease_grace_s: .nan}"),
        ("job_manager.lease_max_s", "job_manager: {lease_max_s: .inf}"),
        ("job_manager.jobs_max", "job_manager: {jobs_max: many}"),
        ("store.kind", "store: {kind: punchcards}"),
        ("security", "security: yes please"),
        ("log.level", "log: {level: 3}"),
        ("schema.attributes.0.max", "schema: {attributes: [{name: ram, max: 0}]}"),
        ("schema.attributes", "schema: {attributes: []}"),
        ("scheduler", "scheduler: 3"),
        ("scheduler.policy", "scheduler: {policy: alphabetical}"),
        ("scheduler.policy_options", "scheduler: {policy_options: {fairnes: 2}}"),
        ("scheduler.policy_options.fairness", "scheduler: {policy_options: {fairness: -1}}"),
        ("scheduler.policy_options.tiers", "scheduler: {policy_options: {tiers: 2.5}}"),
        ("scheduler.policy_options.fairness", "scheduler: {policy_options: {fairness: much}}"),
        ("state_dir", "state_dir: ''"),
    ],
)
def test_value_out_of_range_names_its_key(tmp_path: Path, key: str, text: str) -> None:
    """Wrong type, too small, too large, not finite, not one of the choices."""
    assert load(tmp_path, text).startswith(f"1: {key}: ")


@pytest.mark.parametrize(
    "key,text",
    [
        ("job_manager.host", "job_manager: {host: 0.0.0.0}"),
        ("load_balancer.host", "load_balancer: {host: '::'}"),
        ("admin.host", "admin: {host: 192.0.2.1}"),
        ("scheduler.host", "scheduler: {host: example.org}"),
        ("job_manager.lease_default_s", "job_manager: {lease_default_s: 100, lease_max_s: 10}"),
        ("client_manager.retry_min_s", "client_manager: {retry_min_s: 9, retry_max_s: 8}"),
        ("scheduler.port", "scheduler: {port: 50001}"),
        ("scheduler.policy_options.seed", "scheduler: {policy_options: {seed: 3}}"),
        ("schema.attributes", "schema: {attributes: [{name: a, max: 1}, {name: a, max: 2}]}"),
    ],
)
def test_keys_that_contradict_each_other_are_named(tmp_path: Path, key: str, text: str) -> None:
    """Rules that no single key can break alone."""
    assert f"{key}: " in load(tmp_path, text)


def test_other_addresses_need_security_none(tmp_path: Path) -> None:
    """Who opens the door to other machines has to say so."""
    file = tmp_path / "c.yml"
    file.write_text("security: none\nload_balancer: {host: 0.0.0.0}")
    assert load_config(file, {}).load_balancer.host == "0.0.0.0"


@pytest.mark.parametrize("text", ["a: [", "- 1", "scheduler:\n\tport: 1", "? [a]\n: 1", "\x00"])
def test_what_is_no_configuration_is_one_line(tmp_path: Path, text: str) -> None:
    """Broken YAML, a list, a tab, an odd key, a control character: never a traceback."""
    load(tmp_path, text)


def test_missing_file_is_one_line(tmp_path: Path) -> None:
    """The file's name and the system's reason."""
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.yml")


def test_wrong_variable_is_named() -> None:
    """A mistake in the environment names the variable and the key."""
    with pytest.raises(ConfigError, match="PROPIUS_SCHEDULER__PORT: scheduler\\.port: "):
        load_config(env={"PROPIUS_SCHEDULER__PORT": "x"})
    with pytest.raises(ConfigError, match="PROPIUS_SCHEDULR__X: schedulr: unknown key"):
        load_config(env={"PROPIUS_SCHEDULR__X": "1"})


def test_every_key_of_the_packaged_file_is_explained() -> None:
    """A key has a comment beside or above it, or its section's line has."""
    text = (Path(__file__).parents[2] / "propius" / "global_config.yml").read_text()
    values = yaml.safe_load(text)
    assert set(values) == {
        "schema", "security", "state_dir", "log", "event_log", "store", "admin",
        "job_manager", "scheduler", "load_balancer", "client_manager",
    }  # fmt: skip
    assert text.count("#") > 40
