from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.harness.config import RunConfig, load_run_config, packaged_config
from evaluation.jobs.yaml_file import SettingsError


def test_the_packaged_file_is_the_defaults_and_explains_every_key() -> None:
    """It says every key, with the value that counts where a file leaves it out."""
    packaged = load_run_config(packaged_config())
    assert packaged == RunConfig()
    assert packaged.model_fields_set == set(RunConfig.model_fields)


@pytest.mark.parametrize(
    "text,says",
    [
        ("polices: [irs]\n", "polices: no such field; did you mean policies?"),
        ("policies: [best]\n", "no policy 'best'; there are fifo"),
        ("seeds: [1, 1]\n", "seeds: something stands twice"),
        ("client_num: 0\n", "client_num: "),
        ("partition: {kind: label_counts}\n", "partition label_counts needs a file"),
        ("availability: {on_medain_s: 3}\n", "availability.on_medain_s: no such field"),
        ("selection_method: lottery\n", "selection_method: "),
    ],
)
def test_what_is_wrong_is_one_line_with_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    """A configuration that cannot be used is refused before anything starts."""
    path = tmp_path / "run.yml"
    path.write_text(text)
    with pytest.raises(SettingsError) as refused:
        load_run_config(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "method,policies",
    [
        ("propius", ("irs", "fifo")),
        ("random", ("random-per-client",)),
        ("static_partition", ("static-partition",)),
    ],
)
def test_selection_methods_are_policies_of_the_engine(
    method: str, policies: tuple[str, ...]
) -> None:
    """The baselines run through the same engine, so a device is only offered what it can serve."""
    config = RunConfig.model_validate({"selection_method": method, "policies": ["irs", "fifo"]})
    assert config.policies_run() == policies


def test_ideal_clients_have_one_session_for_the_whole_run_and_no_limit_of_tasks() -> None:
    """An ideal client was limited to one task a period, as one that comes and goes."""
    config = RunConfig(availability_period_s=50.0, periods_max=6, ideal_client=True)
    assert (config.tasks_max, config.period_s, config.periods) == (None, 300.0, 1)
    usual = config.model_copy(update={"ideal_client": False})
    assert (usual.tasks_max, usual.period_s, usual.periods) == (1, 50.0, 6)
