"""The compiled engine. Import it through `propius.engine`, where the words are explained."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Final, final

from typing_extensions import Buffer

__all__ = [
    "POLICIES",
    "POLICY_OPTIONS",
    "REFERENCE_POLICIES",
    "REFERENCE_RULES",
    "DeviceClaiming",
    "EngineError",
    "InvariantBroken",
    "JobsError",
    "Matcher",
    "MatcherFull",
    "Plan",
    "Planner",
    "PlayedRounds",
    "PolicyError",
    "SimulationStopped",
    "Trace",
    "TraceError",
    "__version__",
    "build_profile",
    "simulate",
    "task_failure",
]

build_profile: Final[str]
__version__: Final[str]
POLICIES: Final[list[str]]
REFERENCE_POLICIES: Final[list[str]]
REFERENCE_RULES: Final[list[tuple[str, str]]]
POLICY_OPTIONS: Final[list[str]]

class EngineError(ValueError): ...
class MatcherFull(EngineError): ...
class DeviceClaiming(EngineError): ...
class PolicyError(EngineError): ...
class InvariantBroken(EngineError): ...
class TraceError(EngineError): ...
class JobsError(EngineError): ...
class SimulationStopped(EngineError): ...

@final
class Matcher:
    def __new__(
        cls,
        *,
        dimensions: int,
        tasks_per_offer_max: int = 20,
        offer_timeout_ns: int = 10_000_000_000,
        waiting_max: int = 100_000,
        declined_max: int = 64,
        supply_bucket_ns: int = 1_000_000_000,
        supply_sample_max: int = 256,
        seed: int = 0,
    ) -> Matcher: ...
    def apply_plan(
        self,
        now_ns: int,
        *,
        version: int,
        seq: int,
        ranked: bool,
        groups: list[
            tuple[
                int,
                list[float],
                list[tuple[int, int, int, int, tuple[float, float | None] | None, int]],
            ]
        ],
        preferences: list[tuple[list[int], list[int]]],
        fallback: list[int],
        shuffle: int | None = None,
        partitions: int = 0,
    ) -> bool: ...
    def expect_new_versions(self) -> None: ...
    def check_in(
        self, now_ns: int, device: str, spec: list[float], option: float, hold_until_ns: int
    ) -> list[tuple[int, int]]: ...
    def match_waiting(self, now_ns: int) -> list[tuple[str, list[tuple[int, int]]]]: ...
    def accept(self, now_ns: int, device: str, job: int, round: int) -> bool: ...
    def assigned(self, now_ns: int, device: str, seq: int) -> None: ...
    def refused(self, now_ns: int, device: str) -> bool: ...
    def decline(self, now_ns: int, device: str, rounds: list[tuple[int, int]]) -> None: ...
    def forget(self, now_ns: int, device: str) -> None: ...
    def expire(self, now_ns: int) -> tuple[list[str], list[str]]: ...
    def due_ns(self) -> int | None: ...
    def take_supply(self, now_ns: int) -> list[tuple[int, int, list[float], list[float]]]: ...
    def would_offer(
        self,
        spec: list[float],
        option: float = 0.0,
        device: str = "00000000000000000000000000000000",
    ) -> list[tuple[int, int]]: ...
    def counts(self) -> dict[str, int]: ...
    def check(self) -> None: ...

@final
class Planner:
    def __new__(
        cls,
        *,
        policy: str,
        dimensions: int,
        seed: int = 0,
        supply_window_ns: int = 600_000_000_000,
        supply_samples_max: int = 65_536,
        first_version: int = 0,
        options: dict[str, float] | None = None,
    ) -> Planner: ...
    def reset(self) -> None: ...
    def put_job(
        self,
        job: int,
        requirement_id: int,
        requirement: list[float],
        registered_ns: int,
        demand_estimate: int,
        rounds_estimate: int,
    ) -> None: ...
    def set_history(
        self,
        job: int,
        rounds_succeeded: int,
        devices_served: int,
        last_scheduling_ns: int,
        last_response_ns: int,
        rounds_ns: int,
    ) -> None: ...
    def remove_job(self, job: int) -> None: ...
    def open_round(
        self, job: int, round: int, demand: int, allocated: int, opened_ns: int
    ) -> None: ...
    def set_allocated(self, job: int, round: int, allocated: int) -> bool: ...
    def close_round(self, job: int, round: int) -> None: ...
    def add_supply(
        self,
        manager: int,
        bucket_start_ns: int,
        distinct_devices: int,
        specs_flat: list[float],
        options: list[float],
    ) -> None: ...
    def add_manager(self, manager: int) -> None: ...
    def remove_manager(self, manager: int) -> None: ...
    def plan(self, now_ns: int) -> Plan: ...
    def counts(self) -> dict[str, int]: ...

@final
class Plan:
    @property
    def version(self) -> int: ...
    @property
    def ranked(self) -> bool: ...
    @property
    def groups(
        self,
    ) -> list[
        tuple[
            int,
            list[float],
            list[tuple[int, int, int, int, tuple[float, float | None] | None, int]],
        ]
    ]: ...
    @property
    def preferences(self) -> list[tuple[list[int], list[int]]]: ...
    @property
    def fallback(self) -> list[int]: ...
    @property
    def shuffle(self) -> int | None: ...
    @property
    def partitions(self) -> int: ...
    @property
    def again_ns(self) -> int | None: ...
    @property
    def managers(self) -> list[int]: ...
    def quotas(self, manager: int) -> list[int]: ...
    def explain(self) -> str: ...

@final
class Trace:
    @staticmethod
    def load_csv(path: str | PathLike[str]) -> Trace: ...
    @staticmethod
    def from_columns(
        start_s: Buffer,
        end_s: Buffer,
        computation: Buffer,
        communication: Buffer,
        classes: Buffer,
    ) -> Trace: ...
    def save_csv(self, path: str | PathLike[str]) -> None: ...
    @property
    def period_s(self) -> float: ...
    @property
    def classes(self) -> list[int]: ...
    @property
    def signatures(self) -> list[tuple[list[int], int, float]]: ...
    def __len__(self) -> int: ...

@final
class PlayedRounds:
    """The rounds of one simulated job; who has a slot, and for how long, is the caller's to say.

    ``job`` is one of `simulate`; it arrives at ``now_ns``. Its deadlines come with ``tick``, and
    the next round opens at once when one is over. ``open_round``: (round, opened_ns, filled_ns or
    None, whether it is full now, allocated, completed, lost), None when the job is done.
    Who is known by an ``owner`` gets one slot of a round at most.
    ``take_ended``: those that ended since the last call, as in the record of `simulate`.
    """

    def __new__(cls, job: dict[str, Any], now_ns: int) -> PlayedRounds: ...
    def grant(self, now_ns: int, round: int, owner: int | None = None) -> bool: ...
    def report(self, now_ns: int, round: int) -> bool: ...
    def lose(self, round: int) -> None: ...
    def tick(self, now_ns: int) -> None: ...
    def take_ended(self) -> list[Any]: ...
    @property
    def due_ns(self) -> int | None: ...
    @property
    def open_round(self) -> tuple[int, int, int | None, bool, int, int, int] | None: ...
    @property
    def history(self) -> tuple[int, int, int, int, int]: ...
    @property
    def means_s(self) -> tuple[float | None, float | None]: ...

def simulate(
    trace: Trace,
    jobs: Sequence[dict[str, Any]],
    *,
    policy: str,
    policy_options: Mapping[str, float] | None = None,
    seed: int = 0,
    semantics: str = "propius",
    repeat: int | None = None,
    rules: Sequence[str] = (),
    period_s: float | None = None,
    managers: int = 1,
    replan_s: float = 300.0,
    plan_gap_s: float = 0.02,
    tasks_max: int | None = 1,
    progress: Callable[[int], bool | None] | None = None,
    dispatch_s: float = 2.0,
    as_daemons: bool = False,
    record: bool = False,
    owners: Buffer | None = None,
    failures: tuple[float, float, float] | None = None,
) -> dict[str, Any]:
    """Run one policy with one seed.

    A task starts up to ``dispatch_s`` seconds after its grant. With ``as_daemons`` jobs are
    numbered from 1 and the policy gets the seed itself, so that it draws as it does in the daemons.

    With ``record`` (``propius`` semantics only) the result has, beside the figures, ``record``: a
    list of attempts at rounds,
    (job, round, attempt, (opened_s, filled_s or None, ended_s), (allocated, completed, failed),
    succeeded, history), and a list of tasks, (session, job, attempt, start_s, end_s, steps,
    "counted" | "late" | "gone" | "crash" | "battery" | "user"). ``history`` is what policies read
    of the job from then on: (rounds_succeeded, devices_served, last_scheduling_ns,
    last_response_ns, rounds_ns). ``steps`` is 0 for a job without; a session is numbered by its row
    in the trace plus the rows of the replays before.

    ``owners`` (an array of type "I") says whose each session of the trace is: then nobody has two
    slots of a round, nor one of a round that it reported to.

    ``failures``: how often devices fail in an hour of work by crash, battery and user; see
    ``task_failure``. The result's ``failures`` counts them by cause; ``failed`` has them too.

    A job may have ``steps``: a device whose session ends first does as many of so many equal parts
    of the ``workload`` as fit, at least one, where it would else leave before its task is done.
    """

def task_failure(
    seed: int, device: int, job: int, round: int, failures: tuple[float, float, float]
) -> tuple[float, str] | None:
    """After how many seconds of work this task fails, and of what; None: never.

    ``failures`` are the rates an hour of "crash" (the device says so, and may ask again), "battery"
    (it is gone without a word) and "user" (it says so, and is gone for the session). The time is
    exponential. In ``simulate`` a device is its owner, or its session where there are no owners.
    """
