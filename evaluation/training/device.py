"""The device that a worker trains on: which it is, how much memory it has, its trainer.

Not here: training (:mod:`evaluation.training.trainer`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch

from evaluation.executor.jobs import ExecutorError
from evaluation.training.trainer import Trainer

__all__ = ["Device"]

MEMINFO: Final = Path("/proc/meminfo")


class Device:
    """``auto`` takes the GPU of this index, counted in turn, or the CPU if there is none.

    ``threads`` is for the whole process; None leaves it as it is. Raises :class:`ExecutorError`
    for a device that is not there.
    """

    def __init__(self, name: str = "auto", *, index: int = 0, threads: int | None = 1) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        if name == "auto":
            gpus = torch.cuda.device_count()
            name = f"cuda:{index % gpus}" if gpus else "cpu"
        try:
            self._device = torch.device(name)
            torch.empty(1, device=self._device)
        except (RuntimeError, AssertionError) as error:
            raise ExecutorError(f"device {name}: {str(error).splitlines()[0]}") from error
        self.name = name
        self.torch = str(torch.__version__)

    def trainer(self) -> Trainer:
        """A new one."""
        return Trainer(self.name)

    def free_bytes(self) -> int:
        """The memory that tasks may still use; 0 where that is not known."""
        if self._device.type == "cuda":
            # The driver counts what torch keeps for its next tensors as used.
            kept = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(
                self._device
            )
            return int(torch.cuda.mem_get_info(self._device)[0]) + kept
        return _memory_available_bytes()


def _memory_available_bytes() -> int:
    try:
        for line in MEMINFO.read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # not Linux
    return 0
