"""The broker's decisions, with workers and jobs that the test plays, under a virtual clock."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from evaluation.executor import messages as m
from evaluation.executor.broker import BrokerSettings


def test_a_request_is_shared_out_and_comes_back_whole(hall: Any) -> None:
    """Stacks of a request go to all idle workers; every client's update reaches the job once."""
    hall.worker(b"a")
    hall.worker(b"b")
    hall.job(b"j")
    hall.train(b"j", 1, range(5))

    given = {}
    while tasks := [(w, task) for w in (b"a", b"b") for task in hall.tasks(w)]:
        for worker, task in tasks:
            given[tuple(task.clients)] = worker
            hall.done(worker, task)

    assert sorted(hall.clients_of(b"j")) == [0, 1, 2, 3, 4]
    assert set(given.values()) == {b"a", b"b"}


def test_weights_go_to_a_worker_once_a_version(hall: Any) -> None:
    """A worker gets model and weights with its first task of a version, and not again."""
    hall.worker(b"a")
    hall.job(b"j")
    hall.train(b"j", 1, range(4))
    for _ in range(2):
        (task,) = hall.tasks(b"a")
        hall.done(b"a", task)
    hall.weights(b"j", 1, 1)
    hall.train(b"j", 2, [0], version=1)

    assert [it.version for it in hall.heard(b"a", m.Weights)] == [0, 1]
    assert len(hall.heard(b"a", m.Register)) == 1


def test_a_silent_workers_tasks_are_given_to_another(hall: Any) -> None:
    """A worker silent for longer than lost_s is given up; its clients train elsewhere, once."""
    hall.worker(b"a")
    hall.job(b"j", watch=True)
    hall.train(b"j", 1, [1, 2])
    (task,) = hall.tasks(b"a")
    hall.worker(b"b")

    hall.wait(3.6, b"b", b"j")

    (again,) = hall.tasks(b"b")
    assert again.clients == task.clients
    assert again.number != task.number
    hall.done(b"b", again)
    assert hall.clients_of(b"j") == [1, 2]
    assert [it.what for it in hall.heard(b"j", m.Happened)] == [
        "worker_joined", "worker_lost", "task_reissued",
    ]  # fmt: skip


def test_a_frozen_workers_late_result_does_not_count_twice(hall: Any) -> None:
    """A worker that was taken for dead wakes up: its result is refused, and it says hello again."""
    hall.worker(b"a")
    hall.job(b"j", watch=True)
    hall.train(b"j", 1, [1, 2])
    (task,) = hall.tasks(b"a")
    hall.worker(b"b")
    hall.wait(3.6, b"b", b"j")
    (again,) = hall.tasks(b"b")
    hall.heard(b"a", m.Who)

    hall.done(b"a", task)

    assert hall.clients_of(b"j") == []
    assert len(hall.heard(b"a", m.Who)) == 1
    hall.worker(b"a")
    hall.done(b"a", task)  # it is known again, but this is not its task
    hall.done(b"b", again)
    assert hall.clients_of(b"j") == [1, 2]
    assert len(hall.events("stale_result_refused")) == 2


def test_a_result_sent_twice_counts_once(hall: Any) -> None:
    """The same result again is refused."""
    hall.worker(b"a")
    hall.job(b"j")
    hall.train(b"j", 1, [1, 2])
    (task,) = hall.tasks(b"a")
    hall.done(b"a", task)
    hall.done(b"a", task)

    assert hall.clients_of(b"j") == [1, 2]


def test_a_result_of_another_version_is_refused_and_the_task_given_again(hall: Any) -> None:
    """A result trained from stale weights never reaches the job."""
    hall.worker(b"a")
    hall.job(b"j")
    hall.train(b"j", 1, [1])
    (task,) = hall.tasks(b"a")

    hall.done(b"a", task, version=9)

    assert hall.clients_of(b"j") == []
    (again,) = hall.tasks(b"a")
    hall.done(b"a", again)
    assert hall.clients_of(b"j") == [1]


def test_a_result_with_other_clients_is_refused(hall: Any) -> None:
    """A worker cannot hand in clients that it was not given."""
    hall.worker(b"a")
    hall.job(b"j")
    hall.train(b"j", 1, [1])
    (task,) = hall.tasks(b"a")

    hall.done(b"a", msgspec.structs.replace(task, clients=[2]))

    assert hall.clients_of(b"j") == []


def test_one_slow_job_does_not_block_another(hall: Any) -> None:
    """Fault F8: one serial loop made every job wait for the slowest.

    A job with a hundred stacks waiting, each slow, leaves the next free worker to the job that has
    had less of the workers' time.
    """
    hall.worker(b"a")
    hall.job(b"slow", 1)
    hall.job(b"quick", 2)
    hall.train(b"slow", 1, range(200), job=1)
    (first,) = hall.tasks(b"a")
    hall.train(b"quick", 1, [7], job=2)
    hall.wait(2.0, b"a", b"slow", b"quick")
    hall.done(b"a", first)

    (task,) = hall.tasks(b"a")

    assert task.job == 2


def test_jobs_share_the_workers_by_time_not_by_tasks(hall: Any) -> None:
    """A job whose tasks take ten times as long gets about a tenth of the tasks."""
    hall.worker(b"a")
    for number, peer in ((1, b"long"), (2, b"short")):
        hall.job(peer, number)
        hall.train(peer, 1, range(400), job=number)
    counts = {1: 0, 2: 0}
    having: list[m.Train] = []
    for _ in range(66):
        having += hall.tasks(b"a")
        task = having.pop(0)
        counts[task.job] += 1
        hall.wait(1.0 if task.job == 1 else 0.1, b"a", b"long", b"short")
        hall.done(b"a", task)

    assert 4 <= counts[1] <= 9


def test_a_short_task_is_on_its_way_before_the_last_is_done(hall: Any) -> None:
    """A worker with tasks of a tenth of a second has the next one at hand; with long ones, not."""
    hall.worker(b"a")
    for number, took_s, ahead in ((1, 0.1, 1), (2, 5.0, 0)):
        peer = b"j%d" % number
        hall.job(peer, number)
        hall.train(peer, 1, [1], job=number)
        (task,) = hall.tasks(b"a")
        hall.wait(took_s, b"a", peer)
        hall.done(b"a", task)
        hall.train(peer, 2, range(8), job=number)
        tasks = hall.tasks(b"a")
        assert len(tasks) == 1 + ahead
        hall.say(peer, m.Cancel(2))
        for task in tasks:
            hall.done(b"a", task)


def test_without_workers_requests_wait(hall: Any) -> None:
    """All workers gone: the run is told, nothing fails, and work goes on when one comes back."""
    hall.job(b"j", watch=True)
    hall.worker(b"a")
    hall.train(b"j", 1, [1])
    hall.wait(4.0, b"j")
    assert hall.core.not_ready()
    assert [it.what for it in hall.heard(b"j", m.Happened)][-1] == "no_workers"
    hall.wait(600.0, b"j")
    assert hall.heard(b"j", m.Refused) == []

    hall.worker(b"c")
    (task,) = hall.tasks(b"c")
    hall.done(b"c", task)

    assert hall.clients_of(b"j") == [1]


def test_a_worker_that_leaves_gives_its_task_back_at_once(hall: Any) -> None:
    """A worker that is stopped in good order is not waited for."""
    hall.job(b"j")
    hall.worker(b"a")
    hall.train(b"j", 1, [1])
    hall.tasks(b"a")
    hall.worker(b"b")

    hall.say(b"a", m.Leave())

    assert [task.clients for task in hall.tasks(b"b")] == [[1]]


def test_out_of_memory_leads_to_smaller_tasks(hall: Any) -> None:
    """A stack that did not fit is halved, and the worker is not given so many again."""
    hall.job(b"j", watch=True)
    hall.worker(b"a")
    hall.train(b"j", 1, [1, 2])
    (task,) = hall.tasks(b"a")

    hall.say(b"a", m.Failed(task.number, "memory", "out of memory"))
    first = hall.tasks(b"a")
    hall.done(b"a", first[0])
    second = hall.tasks(b"a")
    hall.done(b"a", second[0])
    hall.train(b"j", 2, [3, 4])

    assert [task.clients for task in first + second] == [[1], [2]]
    assert hall.tasks(b"a")[0].clients == [3]
    assert "out_of_memory" in [it.what for it in hall.heard(b"j", m.Happened)]


def test_one_client_too_large_for_a_worker_goes_to_another(hall: Any) -> None:
    """Where a single client does not fit, another worker trains it."""
    hall.job(b"j")
    hall.worker(b"a")
    hall.train(b"j", 1, [1])
    (task,) = hall.tasks(b"a")
    hall.worker(b"b")

    hall.say(b"a", m.Failed(task.number, "memory", "out of memory"))

    assert hall.tasks(b"a") == []
    assert [task.clients for task in hall.tasks(b"b")] == [[1]]


def test_what_fits_nowhere_is_refused_in_one_line(hall: Any) -> None:
    """With every worker too small, the request fails and says so."""
    hall.job(b"j")
    hall.worker(b"a")
    hall.train(b"j", 1, [1])
    (task,) = hall.tasks(b"a")

    hall.say(b"a", m.Failed(task.number, "memory", "job 1: 1 client does not fit"))

    (refused,) = hall.heard(b"j", m.Refused)
    assert refused.number == 1
    assert "none of 1 workers has the memory for one client alone" in refused.text


def test_a_task_that_can_never_work_fails_at_once(hall: Any) -> None:
    """A model that does not fit the data is not tried on every worker."""
    hall.job(b"j")
    hall.worker(b"a")
    hall.worker(b"b")
    hall.train(b"j", 1, [1])
    (task,) = hall.tasks(b"a")

    hall.say(b"a", m.Failed(task.number, "wrong", "job 1: it does not fit"))

    assert [it.text for it in hall.heard(b"j", m.Refused)] == ["job 1: it does not fit"]
    assert hall.tasks(b"b") == []


def test_a_task_that_takes_workers_down_is_not_tried_for_ever(hall: Any) -> None:
    """A request that five workers were lost with is refused, so it cannot take down all."""
    hall.job(b"j")
    hall.train(b"j", 1, [1])
    for number in range(5):
        hall.worker(b"w%d" % number)
        assert hall.tasks(b"w%d" % number)
        hall.wait(4.0, b"j")

    (refused,) = hall.heard(b"j", m.Refused)
    assert "5 workers were lost" in refused.text


def test_a_worker_with_another_torch_is_refused_in_one_line(hall: Any) -> None:
    """Workers of one executor have one version of torch; how it was built may differ."""
    hall.worker(b"a", torch="2.1.0+cpu")
    hall.worker(b"b", torch="2.1.0+cu130")
    hall.worker(b"c", torch="2.2.0")

    assert hall.heard(b"b", m.Refused) == []
    (refused,) = hall.heard(b"c", m.Refused)
    assert "worker c has torch 2.2.0, the others have 2.1.0" in refused.text


def test_another_protocol_version_is_refused_in_one_line(hall: Any) -> None:
    """Whoever speaks another version hears both versions."""
    head = msgspec.msgpack.encode([99, "hello"])
    hall.raw(b"x", (head, m.encode(m.Leave())[1]))

    (refused,) = hall.heard(b"x", m.Refused)
    assert f"executor protocol 99 spoken, {m.EXECUTOR_VERSION} understood" in refused.text


def test_memory_decides_who_gets_a_large_task(hall: Any) -> None:
    """A stack that a worker has no room for waits for one that has."""
    hall.job(b"j")  # 24 bytes of weights: 192 for a stack of two
    hall.worker(b"a", memory=100)
    hall.worker(b"b", memory=10_000)
    hall.train(b"j", 1, [1, 2])

    assert hall.tasks(b"a") == []
    assert [task.clients for task in hall.tasks(b"b")] == [[1, 2]]


def test_a_stack_is_cut_where_no_worker_has_the_memory(hall: Any) -> None:
    """With small workers only, they get as many clients at once as they can hold."""
    hall.job(b"j")
    hall.worker(b"a", memory=100)
    hall.train(b"j", 1, [1, 2])

    assert [task.clients for task in hall.tasks(b"a")] == [[1]]


def test_a_slow_worker_is_not_given_what_a_fast_one_finishes_sooner(hall: Any) -> None:
    """Measured speed: the last stack waits for the fast worker rather than start on a slow one."""
    hall.job(b"j")
    hall.worker(b"fast")
    hall.worker(b"slow")
    peers = (b"fast", b"slow", b"j")
    for request in range(1, 21):  # one second on one, ten on the other
        hall.train(b"j", request, [1, 2, 3, 4])
        tasks = {peer: hall.tasks(peer) for peer in (b"fast", b"slow")}
        hall.wait(1.0, *peers)
        for task in tasks[b"fast"]:
            hall.done(b"fast", task)
        for task in hall.tasks(b"fast"):
            hall.wait(1.0, *peers)
            hall.done(b"fast", task)
        if tasks[b"slow"]:
            hall.wait(9.0, *peers)
            hall.done(b"slow", tasks[b"slow"][0])

    hall.train(b"j", 99, [1, 2, 3, 4])

    assert len(hall.tasks(b"fast")) == 1
    assert hall.tasks(b"slow") == []


def test_a_task_has_no_more_clients_than_its_answer_can_carry(
    hall: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stack whose weights would not fit into one message is never asked for."""
    monkeypatch.setattr("evaluation.executor.jobs.FRAME_BYTES_MAX", 24)  # as these weights are
    hall.job(b"job")
    for name in (b"a", b"b"):
        hall.worker(name)
    hall.train(b"job", 1, [1, 2])
    assert [task.clients for name in (b"a", b"b") for task in hall.tasks(name)] == [[1], [2]]


def test_a_number_that_is_used_again_is_another_request(hall: Any) -> None:
    """The first one's late result is nobody's, and the second's is the answer."""
    hall.job(b"handle")
    hall.worker(b"a")
    hall.train(b"handle", 1, [1])
    [first] = hall.heard(b"a", m.Train)
    hall.say(b"handle", m.Cancel(1))
    hall.train(b"handle", 1, [2])
    hall.done(b"a", first)
    assert not hall.heard(b"handle", m.Trained)
    [second] = hall.heard(b"a", m.Train)
    hall.done(b"a", second)
    [answer] = hall.heard(b"handle", m.Trained)
    assert (answer.number, answer.clients) == (1, [2])


def test_a_cancelled_request_is_not_begun_any_more(hall: Any) -> None:
    """Nobody waits for it: what has not begun does not begin, what comes is dropped."""
    hall.job(b"j")
    hall.worker(b"a")
    hall.train(b"j", 1, range(6))
    (task,) = hall.tasks(b"a")

    hall.say(b"j", m.Cancel(1))
    hall.done(b"a", task)

    assert hall.clients_of(b"j") == []
    assert hall.tasks(b"a") == []


def test_each_client_keeps_its_own_number_of_steps_in_its_stack(hall: Any) -> None:
    """A request is divided into stacks, and each worker hears the steps of its clients only."""
    hall.job(b"j")
    hall.train(b"j", 1, [5, 6, 7, 8], steps=[10, 2, 3, 4])
    hall.worker(b"a")
    hall.worker(b"b")

    told = [task for worker in (b"a", b"b") for task in hall.tasks(worker)]
    assert sorted((task.clients, task.client_steps) for task in told) == [
        ([5, 6], [10, 2]),
        ([7, 8], [3, 4]),
    ]


@pytest.mark.parametrize(
    "request_of, text",
    [
        ({"job": 9}, "job 9 is not registered"),
        ({"version": 3}, "version 3 is not there; kept are 0"),
        ({"clients": [1, 1]}, "a client is there twice"),
        ({"steps": [1, 1]}, "steps must be 1 to 10, one number for each client"),
        ({"steps": [11]}, "steps must be 1 to 10, one number for each client"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(
    hall: Any, request_of: dict[str, Any], text: str
) -> None:
    """What cannot be done is said before anything is trained."""
    hall.job(b"j")
    hall.worker(b"a")
    asked = {"clients": [1], **request_of}
    hall.train(b"j", 1, asked.pop("clients"), **asked)

    (refused,) = hall.heard(b"j", m.Refused)
    assert text in refused.text
    assert hall.tasks(b"a") == []


def test_the_jobs_of_a_process_that_is_gone_are_forgotten(hall: Any) -> None:
    """What only a vanished process had registered takes no memory for ever."""
    hall.job(b"j")
    hall.worker(b"a")
    hall.train(b"j", 1, [1])
    hall.tasks(b"a")

    hall.wait(61.0, b"a")

    assert hall.core.gauges()["executor_jobs"] == 0
    assert [it.job for it in hall.heard(b"a", m.Forget)] == [1]


def test_hostile_messages_change_nothing(hall: Any) -> None:
    """Random bytes, in any number of frames, are refused and counted."""
    hall.job(b"j")
    hall.worker(b"a")
    chance = random.Random(5)
    good = m.encode(m.Attach("x"))
    for _ in range(500):
        frames = tuple(chance.randbytes(chance.randrange(40)) for _ in range(chance.randrange(5)))
        hall.raw(b"a" if chance.random() < 0.5 else b"x", (good[0], *frames))
        hall.raw(b"x", frames)

    assert hall.core.gauges()["executor_workers"] == 1


def test_whatever_happens_every_client_counts_once(hall: Any) -> None:
    """Invariant: each client of each request reaches its job once, whatever workers do.

    They die, freeze, come back, repeat themselves, and run out of memory.
    """
    for seed in range(30):
        chance = random.Random(seed)
        place = type(hall)(BrokerSettings(stack_clients=3, lost_s=3.0))
        storm = _Storm(place, chance)
        for _ in range(200):
            storm.step()
        storm.calm()
        for job in (1, 2):
            peer = b"j%d" % job
            got = place.heard(peer, m.Trained)
            for request in (1, 2, 3):
                clients = [c for it in got if it.number == request for c in it.clients]
                assert sorted(clients) == list(range(8)), f"SEED={seed}, job {job}"


class _Storm:
    """Two jobs, and workers that do all that workers may do, from a seed."""

    def __init__(self, hall: Any, chance: random.Random) -> None:
        self.hall, self.chance = hall, chance
        self.jobs = (b"j1", b"j2")
        self.names = 0
        self.having: dict[bytes, list[m.Train]] = {}
        self.gone: list[tuple[bytes, m.Train]] = []
        for number, peer in enumerate(self.jobs, 1):
            hall.job(peer, number)
            for request in (1, 2, 3):
                hall.train(peer, request, range(8), job=number)

    def step(self) -> None:
        """One thing happens."""
        hall, chance = self.hall, self.chance
        if len(self.having) < 2 or chance.random() < 0.02:
            self._join()
        for name in self.having:
            self.having[name] += hall.tasks(name)
        name = chance.choice(list(self.having))
        tasks, dice = self.having[name], chance.random()
        if tasks and dice < 0.5:
            self.gone.append((name, tasks[-1]))
            hall.done(name, tasks.pop())
        elif tasks and dice < 0.6 and len(tasks[-1].clients) > 1:
            hall.say(name, m.Failed(tasks.pop().number, "memory", "short"))
        elif dice < 0.62:
            self.gone += [(name, task) for task in self.having.pop(name)]
            hall.wait(3.6, *self.having, *self.jobs)
        elif self.gone and dice < 0.85:
            hall.done(*chance.choice(self.gone))
        else:
            hall.wait(0.2, *self.having, *self.jobs)

    def calm(self) -> None:
        """The workers that are left do all that there is to do."""
        self._join()
        for _ in range(100):
            for name, tasks in self.having.items():
                for task in tasks + self.hall.tasks(name):
                    self.hall.done(name, task)
                tasks.clear()

    def _join(self) -> None:
        self.names += 1
        name = b"w%d" % self.names
        self.hall.worker(name)
        self.having[name] = []
