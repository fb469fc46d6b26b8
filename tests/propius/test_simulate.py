"""Traces, runs and their errors as Python sees them; the rules are tested in Rust."""

from __future__ import annotations

import gzip
import json
import sys
import threading
from array import array
from dataclasses import astuple
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from propius import engine
from propius.engine import (
    EngineError,
    JobsError,
    PolicyError,
    SimulationStopped,
    Trace,
    TraceError,
    simulate,
)
from propius.policy import History, Snapshot

HEADER = "start,end,computation,communication,requirements\n"
JOB = {"start_s": 0.0, "participants": 2, "rounds": 3, "deadline_s": 400, "requirement": 1}
SEMANTICS = ("propius", "venn-reference")


def busy_trace(sessions: int = 4000) -> Trace:
    """One session every 20 s, of 1 to 20 minutes."""
    starts = [20.0 * i for i in range(sessions)]
    return Trace.from_columns(
        array("d", starts),
        array("d", [start + 60.0 + 37 * i % 1200 for i, start in enumerate(starts)]),
        array("d", [20.0 + 31 * i % 100 for i in range(sessions)]),
        array("d", [1_000.0 + 97 * i % 9_000 for i in range(sessions)]),
        array("H", [(0b10, 0b110, 0b1010, 0b11110, 0)[i % 5] for i in range(sessions)]),
    )


def job_list(count: int = 8) -> list[dict[str, Any]]:
    """Jobs of all four classes."""
    return [
        {
            "start_s": 100.0 * i,
            "participants": 2 + i % 5,
            "rounds": 5,
            "deadline_s": 600.0,
            "requirement": 1 + i % 4,
        }
        for i in range(count)
    ]


def test_a_trace_is_written_and_read_again(tmp_path: Path) -> None:
    """Plain and gzipped files hold the same rows, and a run on them is the same."""
    trace = busy_trace(500)
    for name in ("trace.csv", "trace.csv.gz"):
        trace.save_csv(tmp_path / name)
        again = Trace.load_csv(str(tmp_path / name))
        assert (len(again), again.period_s, again.classes) == (500, 86_400.0, [1, 2, 3, 4])
        assert again.signatures == trace.signatures
        runs = [simulate(t, job_list(), policy="irs", repeat=9) for t in (trace, again)]
        assert runs[0] == runs[1]
    text = gzip.decompress((tmp_path / "trace.csv.gz").read_bytes()).decode()
    assert text.splitlines()[:2] == [HEADER.strip(), "0,60,20,1000,1"]


def test_each_signature_has_its_sessions_and_its_time_online() -> None:
    """Ascending; together they are all there is."""
    signatures = busy_trace(500).signatures
    assert [(met, rows) for met, rows, _ in signatures] == [
        ([], 100), ([1], 100), ([1, 2], 100), ([1, 3], 100), ([1, 2, 3, 4], 100)
    ]  # fmt: skip
    assert sum(online_s for _, _, online_s in signatures) == sum(
        60.0 + 37 * i % 1200 for i in range(500)
    )


def test_columns_have_rows_and_no_lines() -> None:
    """Rows are counted from 1; there is no file that anybody could open."""
    start_s, end_s, ones = array("d", [5, 1]), array("d", [9, 9]), array("d", [1, 1])
    with pytest.raises(TraceError, match="columns: row 2: start 1 is before 5"):
        Trace.from_columns(start_s, end_s, ones, ones, array("H", [2, 2]))


@pytest.mark.parametrize(
    "text, told",
    [
        ("start,end,computation,requirements\n", 'no column "communication"'),
        (HEADER + "1,5,1,1,1\n9,8,1,1,1\n", "wrong.csv:3: end 8 is before start 9"),
        (HEADER + "5,6,1,1,1\n4,6,1,1,1\n", "wrong.csv:3: start 4 is before 5"),
        (HEADER + "1,5,nan,1,1\n", "wrong.csv:2: computation is NaN"),
        (HEADER, "no rows"),
        ("", "the file is empty"),
    ],
)
def test_a_wrong_trace_is_refused_with_file_and_line(tmp_path: Path, text: str, told: str) -> None:
    """One line that names the file, its line and the fault."""
    path = tmp_path / "wrong.csv"
    path.write_text(text)
    with pytest.raises(TraceError) as caught:
        Trace.load_csv(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert told in message
    assert "\n" not in message


def test_a_file_that_is_not_there_is_a_trace_error(tmp_path: Path) -> None:
    """So is one that is cut off."""
    with pytest.raises(TraceError, match="No such file"):
        Trace.load_csv(tmp_path / "nothing.csv")
    busy_trace(500).save_csv(tmp_path / "t.csv.gz")
    (tmp_path / "cut.csv.gz").write_bytes((tmp_path / "t.csv.gz").read_bytes()[:-40])
    with pytest.raises(TraceError, match=r"cut\.csv\.gz"):
        Trace.load_csv(tmp_path / "cut.csv.gz")


@pytest.mark.parametrize(
    "change, told",
    [
        ({"rounds": 0}, "job 2: rounds is 0"),
        ({"requirement": 7}, "job 2: requirement 7 is met by no client"),
        ({"start_s": float("nan")}, "job 2: start_s is NaN"),
        ({"participants": -1}, "job 2: participants is wrong"),
        ({"kind": "batch"}, 'job 2: kind is "batch"'),
        ({"color": 1}, 'job 2: unknown field "color"'),
    ],
)
def test_a_wrong_job_is_refused_with_its_number(change: dict[str, Any], told: str) -> None:
    """In both semantics, before anything runs."""
    for semantics in SEMANTICS:
        with pytest.raises(JobsError) as caught:
            simulate(busy_trace(50), [JOB, JOB | change], policy="fifo", semantics=semantics)
        assert told in str(caught.value)


def test_unknown_words_are_answered_with_the_known_ones() -> None:
    """A policy, an option, semantics, a rule."""
    trace = busy_trace(50)
    with pytest.raises(PolicyError, match="known are fifo"):
        simulate(trace, [JOB], policy="best")
    with pytest.raises(PolicyError, match="known are fifo, random, srsf, irs, venn"):
        simulate(trace, [JOB], policy="las", semantics="venn-reference")
    with pytest.raises(EngineError, match="colour"):
        simulate(trace, [JOB], policy="irs", policy_options={"colour": 1.0})
    with pytest.raises(EngineError, match="known are propius, venn-reference"):
        simulate(trace, [JOB], policy="irs", semantics="other")
    with pytest.raises(EngineError, match="known are eligible"):
        simulate(trace, [JOB], policy="irs", semantics="venn-reference", rules=["other"])


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_a_run_is_a_function_of_its_seed(semantics: str) -> None:
    """The same JSON from the same seed, in any thread; other draws from another seed."""
    trace = busy_trace()
    runs: list[str] = []

    def run(seed: int) -> None:
        result = simulate(
            trace, job_list(), policy="random", seed=seed, semantics=semantics, repeat=40
        )
        runs.append(json.dumps(result))

    run(1)
    threads = [threading.Thread(target=run, args=(1,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 4
    assert len(set(runs)) == 1
    run(2)
    assert len(set(runs)) == 2
    result = json.loads(runs[0])
    assert result["finished"] == result["jobs"] == 8
    assert result["dispatched"] == result["completed"] + result["failed"] + result["running"]
    assert len(result["per_job"]) == 8


def test_every_policy_runs_with_several_managers() -> None:
    """Each finishes all jobs, and no device is offered what it is not eligible for."""
    trace = busy_trace()
    for policy in engine.POLICIES:
        result = simulate(trace, job_list(), policy=policy, repeat=40, managers=3)
        assert (result["finished"], result["ineligible"]) == (8, 0), policy


class Latest:
    """Who registered last is served first."""

    def order(self, snapshot: Snapshot) -> list[tuple[int, int]]:
        """A user's rule."""
        found = sorted(snapshot.rounds, key=lambda r: (-r.registered_ns, r.job))
        return [(r.job, r.round) for r in found]


class Broken:
    """Fails at its first plan."""

    def order(self, snapshot: Snapshot) -> list[tuple[int, int]]:
        """Names a round that nobody opened."""
        return [(4711, 0)]


def test_a_policy_of_ones_own_is_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named as in the configuration; its mistakes end the run with one line."""
    module = ModuleType("own_rules")
    monkeypatch.setitem(sys.modules, "own_rules", module)
    monkeypatch.setattr(module, "Latest", Latest, raising=False)
    monkeypatch.setattr(module, "Broken", Broken, raising=False)
    trace = busy_trace()
    runs = [simulate(trace, job_list(), policy="own_rules:Latest", repeat=40) for _ in range(2)]
    assert runs[0] == runs[1]
    assert (runs[0]["finished"], runs[0]["ineligible"]) == (8, 0)
    with pytest.raises(PolicyError, match=r"own_rules:Broken.*round 0 of job 4711"):
        simulate(trace, job_list(), policy="own_rules:Broken", repeat=40)
    with pytest.raises(PolicyError, match="own_rules:Missing"):
        simulate(trace, job_list(), policy="own_rules:Missing")


def test_progress_stops_a_run_and_its_error_is_raised() -> None:
    """False ends the run; an exception of the callback is the run's."""
    trace = busy_trace()
    endless = [JOB | {"participants": 400, "rounds": 1000}]

    def fail(rounds: int) -> bool:
        raise KeyboardInterrupt

    for semantics in SEMANTICS:
        with pytest.raises(SimulationStopped):
            simulate(
                trace, endless, policy="fifo", semantics=semantics, progress=lambda rounds: False
            )
        with pytest.raises(KeyboardInterrupt):
            simulate(trace, endless, policy="fifo", semantics=semantics, progress=fail)


def test_each_rule_of_the_reference_can_be_switched() -> None:
    """One after the other, as a comparison does; with all, nobody ineligible is served."""
    trace = busy_trace()
    names = [name for name, what in engine.REFERENCE_RULES if what]
    assert names[0] == "eligible"
    for count in range(len(names) + 1):
        result = simulate(
            trace,
            job_list(),
            policy="irs",
            semantics="venn-reference",
            repeat=40,
            rules=names[:count],
        )
        assert result["finished"] == 8
        assert count == 0 or result["ineligible"] == 0


class Remembers:
    """Serves in order of jobs, and keeps what it read of their histories, once a plan."""

    read: ClassVar[list[tuple[int, int, History]]] = []

    def order(self, snapshot: Snapshot) -> list[tuple[int, int]]:
        """In order of jobs."""
        self.read.extend((each.job, each.round, each.history) for each in snapshot.rounds)
        return []


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, History]]:
    """What :class:`Remembers` reads in this test; its policy is ``own_rules:Remembers``."""
    module = ModuleType("own_rules")
    monkeypatch.setitem(sys.modules, "own_rules", module)
    monkeypatch.setattr(module, "Remembers", Remembers, raising=False)
    monkeypatch.setattr(Remembers, "read", [])
    return Remembers.read


def test_who_served_a_job_is_counted_when_a_round_ends(
    read: list[tuple[int, int, History]],
) -> None:
    """The same number in all plans of a round; after it, more by the slots that were held then."""
    jobs = [job | {"start_s": 0.0} for job in job_list()]
    result = simulate(busy_trace(), jobs, policy="own_rules:Remembers", record=True, repeat=40)
    ended = {(job, number): counts for job, _, number, _, counts, *_ in result["record"][0]}
    after = {(job, number): past for job, _, number, *_, past in result["record"][0]}
    assert result["aborts"] > 0, "a round that failed was served, too"
    assert len(read) > len(ended), "several plans a round"
    for job, number, history in read:
        before = [ended[job, earlier] for earlier in range(number)]
        assert history.devices_served == sum(given - lost for given, _, lost in before)
        assert astuple(history) == (after[job, number - 1] if number else (0, 0, 0, 0, 0))


def test_who_served_an_asynchronous_job_is_counted_with_each_result(
    read: list[tuple[int, int, History]],
) -> None:
    """Late results too, but nobody who left: what the last plan read is what came until then."""
    wanted = {"participants": 4, "kind": "async", "buffer": 2, "staleness": 0}
    jobs = [JOB | wanted | {"rounds": 10_000}]
    result = simulate(busy_trace(600), jobs, policy="own_rules:Remembers", repeat=1)
    assert (result["late"] > 0, result["failed"] > 0) == (True, True)
    served = [history.devices_served for _, _, history in read]
    assert served == sorted(served)
    assert result["completed"] - 2 <= served[-1] <= result["completed"]


# --- the record ----------------------------------------------------------------------------------


def test_a_record_changes_nothing_and_adds_up_to_the_figures() -> None:
    """The result beside it is the same; attempts and tasks are those that were counted."""
    plain = simulate(busy_trace(), job_list(), policy="irs")
    result = simulate(busy_trace(), job_list(), policy="irs", record=True)
    rounds, tasks = result.pop("record")
    assert result == plain
    assert sum(succeeded for *_, succeeded, _ in rounds) == result["rounds"]
    assert len(rounds) == result["rounds"] + result["aborts"]
    ends = [how for *_, how in tasks]
    assert ends.count("gone") == result["failed"]
    assert ends.count("late") == result["late"]
    assert len(ends) == result["completed"] + result["failed"]
    for job, _round, attempt, times, (_allocated, completed, failed), *_ in rounds:
        own = [how for _, at, number, _, end_s, _, how in tasks if (at, number) == (job, attempt)
               and end_s <= times[2]]  # fmt: skip
        assert (own.count("counted"), own.count("gone")) == (completed, failed)


def test_a_task_that_can_be_cut_ends_with_its_session_at_the_latest() -> None:
    """Where whole tasks are lost, as many steps as fit are done; who has time does all of them."""
    whole = simulate(busy_trace(), [JOB], policy="fifo", record=True)
    cut = simulate(busy_trace(), [JOB | {"steps": 10}], policy="fifo", record=True)
    assert {steps for *_, steps, _ in whole["record"][1]} == {0}
    done = {steps for *_, steps, how in cut["record"][1] if how != "gone"}
    assert {10} < done <= set(range(1, 11))
    assert {steps for *_, steps, how in cut["record"][1] if how == "gone"} <= {1}
    assert cut["failed"] < whole["failed"]


def test_owners_of_sessions_serve_a_round_once() -> None:
    """Two devices cannot fill a round of three, however often they come.

    Sessions of strangers do. With owners that are all different nothing changes.
    """
    trace = busy_trace()
    jobs = [JOB | {"participants": 3, "min_response": 1.0, "deadline_s": 9_000}]
    strangers = simulate(trace, jobs, policy="irs", record=True, repeat=1)
    assert strangers["rounds"] == 3
    for owners, rounds in ((range(4_000), 3), ([n // 5 % 2 for n in range(4_000)], 0)):
        result = simulate(trace, jobs, policy="irs", record=True, repeat=1,
                          owners=array("I", owners))  # fmt: skip
        assert result["rounds"] == rounds
        assert (result == strangers) == (rounds == 3)


def test_both_phases_of_a_round_have_their_own_time_out() -> None:
    """Not filled in time, too few reports after the fill: each ends an attempt, to the second."""
    job = {key: value for key, value in JOB.items() if key != "deadline_s"}
    slow = job | {"scheduling_timeout_s": 30.0, "response_timeout_s": 1e6, "participants": 4}
    quick = job | {"scheduling_timeout_s": 1e6, "response_timeout_s": 5.0, "workload": 400.0}
    for wanted, expected in ((slow, 30.0), (quick, 5.0)):
        result = simulate(busy_trace(400), [wanted], policy="fifo", record=True, repeat=1)
        aborted = [times for *_, times, _, succeeded, _ in result["record"][0] if not succeeded]
        assert aborted
        for opened_s, filled_s, ended_s in aborted:
            from_s = opened_s if wanted is slow else filled_s
            assert ended_s - from_s == pytest.approx(expected)
            assert (filled_s is None) == (wanted is slow)


@pytest.mark.parametrize(
    "change,says",
    [
        ({"scheduling_timeout_s": 1.0}, "both time-outs are needed, or none"),
        ({"scheduling_timeout_s": 1.0, "response_timeout_s": 0.0}, "times above 0, of a sync job"),
    ],
)
def test_half_a_pair_of_time_outs_is_refused(change: dict[str, float], says: str) -> None:
    """The job is named."""
    with pytest.raises(JobsError, match=f"job 1: .*{says}"):
        simulate(busy_trace(50), [JOB | change], policy="fifo")


def test_what_the_reference_does_not_know_is_refused() -> None:
    """Time-outs of two phases would never end a round there, and it keeps no record."""
    job = {key: value for key, value in JOB.items() if key != "deadline_s"}
    job |= {"scheduling_timeout_s": 9.0, "response_timeout_s": 9.0}
    with pytest.raises(JobsError, match="job 1: the reference knows deadline_s, not time-outs"):
        simulate(busy_trace(50), [job], policy="fifo", semantics="venn-reference", repeat=1)
    with pytest.raises(JobsError, match="job 1: the reference knows whole tasks, not steps"):
        simulate(busy_trace(50), [JOB | {"steps": 3}], policy="fifo", semantics="venn-reference")
    with pytest.raises(EngineError, match="owners is of semantics 'propius'"):
        simulate(busy_trace(50), [JOB], policy="fifo", semantics="venn-reference",
                 owners=array("I", range(50)))  # fmt: skip
    with pytest.raises(EngineError, match="owners"):
        simulate(busy_trace(50), [JOB], policy="fifo", owners=array("I", [1]))
    with pytest.raises(EngineError, match="record is of semantics 'propius'"):
        simulate(busy_trace(50), [JOB], policy="fifo", semantics="venn-reference", record=True)
