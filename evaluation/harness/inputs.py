"""What went into a run, kept in its folder so that the run can be repeated from there alone.

``inputs/`` has the whole configuration with its paths brought home, the profiles, and every file
that the configuration names; ``inputs/run.yml`` is a configuration like any other. Samples stay
where they are: ``data.json`` says what they were, and a run whose configuration lies beside such a
file is refused if its samples are others.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from evaluation.data.images import DataError, ImageData
from evaluation.harness.experiment import Experiment
from evaluation.jobs.profiles import FILE_NAME, profile_folder
from propius.errors import PropiusError

__all__ = ["FOLDER", "check_data", "describe_data", "keep_inputs"]

FOLDER: Final = "inputs"
CONFIG: Final = "run.yml"
DATA: Final = "data.json"
PROFILES: Final = "profiles"
CODE: Final = "policies"
PATHS: Final = (
    "job_trace", "client_spec_path", "client_size_path", "client_comm_path", "client_avail_path",
)  # fmt: skip


def keep_inputs(experiment: Experiment, data: Mapping[str, Any], run: Path) -> None:
    """Write ``inputs/`` into the folder of a run; ``data`` as :func:`describe_data` has it.

    Raises PropiusError with one line.
    """
    folder = run / FOLDER
    try:
        folder.mkdir(parents=True)
        values = _copied(experiment, folder)
        if len(data) == 1 and experiment.config.dataset:
            values["dataset"] = list(data)  # of the list, what was there
        (folder / CONFIG).write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
        (folder / DATA).write_text(json.dumps(data, indent=1) + "\n")
    except OSError as error:
        raise PropiusError(f"{folder}: {error.strerror}") from error


def _copied(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """The configuration as YAML knows it, once every file that it names lies in ``folder``."""
    config = experiment.config
    values: dict[str, Any] = config.model_dump(mode="json")
    profiles = profile_folder(config.profile_folder, experiment.folder)
    (folder / PROFILES).mkdir()
    for profile in sorted(profiles.iterdir()):
        if FILE_NAME.fullmatch(profile.name):
            shutil.copyfile(profile, folder / PROFILES / profile.name)
    values["profile_folder"] = PROFILES
    named = [(values, key, getattr(config, key)) for key in PATHS]
    named.append((values["partition"], "file", config.partition.file))
    for where, key, name in named:
        if (path := experiment.path(name)) is not None:
            where[key] = f"{key}{path.suffix}"
            shutil.copyfile(path, folder / where[key])
    if (data_dir := experiment.path(config.data_dir)) is not None:
        values["data_dir"] = str(data_dir.resolve())
    for policy in config.policies:
        _keep_policy(policy, folder / CODE)
    return values


def _keep_policy(name: str, folder: Path) -> None:
    """A policy of the user's, as the file of its module; ``folder`` can stand on PYTHONPATH."""
    module, colon, _ = name.partition(":")
    if not colon:
        return
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        return  # whoever runs the policy says what is wrong with it
    copy = folder / Path(*module.split(".")).with_suffix(".py")
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(found.origin, copy)


def describe_data(data: Iterable[ImageData]) -> dict[str, dict[str, Any]]:
    """By data set: how many samples of how many classes, and a digest of all of them."""
    return {
        each.name: {
            "training_samples": len(each.labels),
            "test_samples": len(each.test_labels),
            "classes": each.classes,
            "shape": list(each.shape),
            "sha256": _digest(each),
        }
        for each in data
    }


def check_data(experiment: Experiment, data: ImageData) -> None:
    """Raise DataError if this run repeats one whose samples were others."""
    path = experiment.folder / DATA
    if not path.is_file():
        return
    try:
        expected: Mapping[str, Any] = json.loads(path.read_bytes())
        known = expected[data.name]["sha256"] if data.name in expected else None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: not what a run has written: {error}") from error
    if known is not None and known != _digest(data):
        raise DataError(
            f"{data.name}: these are not the samples of the run that {path} is of; "
            "remove that file to run on others"
        )


def _digest(data: ImageData) -> str:
    digest = hashlib.sha256()
    for part in (data.images, data.labels, data.test_images, data.test_labels):
        digest.update(f"{part.dtype.str} {part.shape}".encode())
        digest.update(part.tobytes())
    return digest.hexdigest()
