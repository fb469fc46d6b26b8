"""Which device is taken, and how much memory it says is free; with a GPU that is made up."""

from __future__ import annotations

import pytest
import torch

from evaluation.executor.handle import InProcessExecutor
from evaluation.executor.jobs import ExecutorError, JobModel
from evaluation.training.device import Device
from evaluation.training.specs import ModelSpec

MIB = 1 << 20


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, of which nothing is asked but what they are and what is free."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "empty", lambda *_size, **_options: None)


@pytest.mark.parametrize("index, name", [(0, "cuda:0"), (1, "cuda:1"), (2, "cuda:0")])
@pytest.mark.usefixtures("gpus")
def test_auto_takes_the_gpus_in_turn(index: int, name: str) -> None:
    """With GPUs, workers with the indices 0, 1, 2 … share them out."""
    assert Device("auto", index=index, threads=None).name == name


def test_auto_takes_the_cpu_where_no_gpu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU it is the CPU, whose free memory is that of the machine."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)

    device = Device("auto", threads=None)

    assert device.name == "cpu"
    assert device.free_bytes() >= 0


def test_a_device_that_is_not_there_is_one_line() -> None:
    """A device that torch does not know is refused by its name, without a traceback's lines."""
    with pytest.raises(ExecutorError, match="device nonsense: ") as refusal:
        Device("nonsense", threads=None)
    assert "\n" not in str(refusal.value)


@pytest.mark.usefixtures("gpus")
def test_what_torch_keeps_of_a_gpu_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that torch holds for its next tensors may be used; what tensors have may not.

    Otherwise a worker seems to have ever less memory, and is given ever smaller stacks.
    """
    of = {
        "mem_get_info": (100 * MIB, 1_000 * MIB),
        "memory_reserved": 700 * MIB,
        "memory_allocated": 50 * MIB,
    }
    for what, answer in of.items():
        answers = {torch.device("cuda:1"): answer}
        monkeypatch.setattr(torch.cuda, what, answers.__getitem__)

    assert Device("cuda:1", threads=None).free_bytes() == 750 * MIB


def test_threads_stay_as_they_are_unless_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker says how many threads torch has; an executor in one's own process does not."""
    said: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", said.append)

    executor = InProcessExecutor("cpu")
    executor.register(JobModel(1, ModelSpec("softmax", (1, 8, 8), 10), "digits"))
    executor.close()
    assert said == []

    Device("cpu", threads=3)
    assert said == [3]
