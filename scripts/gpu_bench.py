"""How many clients a device trains in a second, stacked and one after the other.

    .venv/bin/python scripts/gpu_bench.py                    # on the GPU
    .venv/bin/python scripts/gpu_bench.py --device cpu --clients 8 --steps 2

Prints one line a model and a JSON object of everything at the end. The updates of both ways are
compared, so that a figure is one of the same work. Makes its own data; downloads nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from evaluation.training.local import Arrays, ClientData, train
from evaluation.training.models import build
from evaluation.training.specs import Hyper, ModelSpec

SHAPES = {"mlp": (1, 28, 28), "cnn": (1, 28, 28), "resnet18": (3, 32, 32)}
SAMPLES = 100
DIFFERENCE_MAX = 0.05


def main() -> int:
    """Measure what the arguments ask for."""
    asked = arguments()
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        sys.stderr.write("gpu_bench: no GPU is here; try --device cpu\n")
        return 1
    device = torch.device(asked.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    sys.stdout.write(f"{name}, torch {torch.__version__}, {asked.clients} clients of ")
    sys.stdout.write(f"{asked.steps} steps of {asked.batch_size}\n")
    figures = {}
    for model in asked.models:
        figures[model] = measure(model, device, asked)
        line = figures[model]
        sys.stdout.write(
            f"{model:>9}: stacked {line['stacked_per_s']:,} clients/s, one after the other "
            f"{line['sequential_per_s']:,}, ratio {line['ratio']}, differ by at most "
            f"{line['difference']:.1e}\n"
        )
        sys.stdout.flush()
    facts = {"device": name, "torch": torch.__version__, "clients": asked.clients}
    facts |= {"steps": asked.steps, "batch_size": asked.batch_size, "figures": figures}
    sys.stdout.write(json.dumps(facts) + "\n")
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Clients trained in a second on one device.")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu")
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def measure(name: str, device: torch.device, asked: argparse.Namespace) -> dict[str, Any]:
    """Both ways in turn, after one round of each to warm up."""
    clients = made_clients(name, device, asked.clients)
    model = build(ModelSpec(name, SHAPES[name], 10)).to(device)
    weights: Arrays = {key: value.cpu().numpy().copy() for key, value in model.state_dict().items()}
    hyper = Hyper(steps=asked.steps, batch_size=asked.batch_size, learning_rate=0.01)

    def timed(stacked: bool) -> tuple[float, list[Any]]:
        wait_for(device)
        began_s = time.perf_counter()
        updates = train(model, weights, clients, hyper, seed=(0,), stacked=stacked)
        wait_for(device)
        return time.perf_counter() - began_s, updates

    difference = largest_difference(timed(True)[1], timed(False)[1])
    if difference > DIFFERENCE_MAX:
        raise SystemExit(f"gpu_bench: {name}: the two ways differ by {difference}")
    times = [(timed(True)[0], timed(False)[0]) for _ in range(asked.rounds)]
    stacked_s, sequential_s = (statistics.median(each) for each in zip(*times, strict=True))
    return {
        "stacked_per_s": round(asked.clients / stacked_s, 1),
        "sequential_per_s": round(asked.clients / sequential_s, 1),
        "ratio": round(sequential_s / stacked_s, 2),
        "difference": difference,
        "memory_mib": peak_mib(device),
    }


def made_clients(name: str, device: torch.device, count: int) -> list[ClientData]:
    """Random images and labels, the same every time."""
    chance = np.random.default_rng(3)
    made = []
    for client in range(count):
        images = chance.random((SAMPLES, *SHAPES[name]), dtype=np.float32)
        labels = torch.from_numpy(chance.integers(10, size=SAMPLES)).to(device)
        made.append(ClientData(client, torch.from_numpy(images).to(device), labels))
    return made


def largest_difference(some: list[Any], others: list[Any]) -> float:
    """Between the weights of two lists of updates."""
    return max(
        float(np.abs(value - other.weights[key]).max())
        for one, other in zip(some, others, strict=True)
        for key, value in one.weights.items()
    )


def peak_mib(device: torch.device) -> int | None:
    """The most memory that was used; None on the CPU."""
    if device.type != "cuda":
        return None
    return int(torch.cuda.max_memory_allocated(device) // (1 << 20))


def wait_for(device: torch.device) -> None:
    """A GPU works on after the call has come back."""
    synchronize: Callable[[torch.device], None] = torch.cuda.synchronize
    if device.type == "cuda":
        synchronize(device)


if __name__ == "__main__":
    sys.exit(main())
