from __future__ import annotations

import numpy as np
import pytest

from evaluation.aggregators import AggregationError, Update
from evaluation.jobs.learning import LearningError, LearningJob
from evaluation.jobs.profiles import JobProfile


def job(**profile: object) -> LearningJob:
    values = {"demand": 3, "total_round": 4, "learning_rate": 0.4, "decay_factor": 0.5,
              "decay_round": 2} | profile  # fmt: skip
    weights = {"w": np.zeros(2)}
    return LearningJob(9, JobProfile.model_validate(values), weights, eval_interval=2)


def update(client: int, value: float, samples: int = 1) -> Update:
    return Update(client, {"w": np.full(2, value)}, samples, loss=value)


def test_a_round_uses_as_many_results_as_it_asked_for() -> None:
    """The first ``demand`` results make the round; one more, that came too, changes nothing.

    Fault F13: the original took demand + 1.
    """
    learning = job()
    learning.finish(0, [update(client, float(client)) for client in (3, 6, 9, 1_000)])
    assert learning.weights["w"].tolist() == [6.0, 6.0]
    assert (learning.moving_loss, learning.trained_samples) == (6.0, 3)


def test_all_results_count_by_their_samples() -> None:
    """Not the last one, nor each alike."""
    learning = job()
    learning.finish(0, [update(1, 1.0, samples=3), update(2, 5.0, samples=1)])
    assert learning.weights["w"].tolist() == [2.0, 2.0]


def test_what_fails_leaves_everything_as_it_was() -> None:
    """Results that cannot be used, and a round whose turn it is not, change nothing."""
    learning = job()
    with pytest.raises(AggregationError):
        learning.finish(0, [update(1, float("nan"))])
    with pytest.raises(LearningError, match="round 1 is not its turn, 0 of 4 are done"):
        learning.finish(1, [update(1, 1.0)])
    with pytest.raises(LearningError):
        learning.task_of(1, [1])
    assert (learning.version, learning.weights["w"].tolist()) == (0, [0.0, 0.0])


def test_who_diverged_is_dropped_and_counted_and_the_round_goes_on() -> None:
    """Of seven devices the round can spare two, and so one of five results."""
    learning = job(demand=5, over_selection=1.4)
    good = [update(client, float(client), samples=client) for client in (1, 2, 3, 4)]
    learning.finish(0, [*good[:2], Update.of_diverged(9, 50), *good[2:]])
    assert learning.weights["w"].tolist() == [3.0, 3.0]  # (1 + 4 + 9 + 16) / 10
    assert (learning.diverged, learning.trained_samples, learning.moving_loss) == ((9,), 10, 2.5)


@pytest.mark.parametrize("over_selection, spared", [(1.0, 0), (1.4, 1)])
def test_a_round_with_too_few_usable_results_changes_nothing_and_is_over(
    over_selection: float, spared: int
) -> None:
    """Neither weights nor loss; the round counts, and the next one may learn again."""
    learning = job(demand=5, over_selection=over_selection)
    bad = [Update.of_diverged(client, 9) for client in range(spared + 1)]
    good = [update(client, 2.0) for client in range(10, 14 - spared)]
    learning.finish(0, [*good, *bad])
    assert (learning.version, learning.weights["w"].tolist()) == (1, [0.0, 0.0])
    assert (len(learning.diverged), learning.trained_samples) == (spared + 1, 0)
    assert learning.moving_loss is None
    learning.finish(1, [*good, *(update(client, 2.0) for client in range(spared + 1))])
    assert (learning.diverged, learning.weights["w"].tolist()) == ((), [2.0, 2.0])


def test_only_q_fedavg_asks_for_the_loss_before_training() -> None:
    """It costs a pass over all samples."""
    wants = {
        policy: job(gradient_policy=policy).hyper().start_loss
        for policy in ("fed-avg", "fed-prox", "fed-yogi", "q-fedavg")
    }
    assert wants == {"fed-avg": False, "fed-prox": False, "fed-yogi": False, "q-fedavg": True}


def test_tasks_train_from_the_rounds_version_at_its_learning_rate() -> None:
    """The version grows by one with each success, and the learning rate decays with it."""
    learning = job(gradient_policy="fed-prox", proxy_mu=0.7)
    tasks = []
    for round_no in range(4):
        tasks.append(learning.task_of(round_no, [5, 2]))
        learning.finish(round_no, [update(5, 1.0)])
    assert [task.version for task in tasks] == [0, 1, 2, 3]
    assert [task.hyper.learning_rate for task in tasks] == [0.4, 0.4, 0.2, 0.2]
    assert {task.hyper.prox_mu for task in tasks} == {0.7}
    assert tasks[0].clients == (5, 2)
    assert learning.is_done


def test_q_fedavg_takes_the_learning_rate_of_the_round() -> None:
    """L is 1/0.4 in the first round and 1/0.2 in the second, when the clients train with 0.2.

    By hand, one client that moves 2 weights by 1 with a loss of 1 and q = 1: h = 2 L² + L, so that
    they move by L / h = 1 / (2 L + 1).
    """
    learning = job(gradient_policy="q-fedavg", qfed_q=1, decay_round=1, total_round=2)
    moved = []
    for round_no in range(2):
        before = learning.weights["w"]
        learning.finish(round_no, [Update(1, {"w": before + 1}, 1, 9.0, 1.0)])
        moved.append(float(learning.weights["w"][0] - before[0]))
    assert moved == pytest.approx([1 / 6, 1 / 11], rel=0, abs=1e-12)


def test_weights_are_tested_first_last_and_every_so_many_rounds() -> None:
    """With an interval of 2 and 5 rounds: versions 0, 2, 4, and 5."""
    learning = job(total_round=5)
    tested = [0] if learning.wants_score else []
    for round_no in range(5):
        learning.finish(round_no, [update(1, 1.0)])
        tested += [learning.version] if learning.wants_score else []
    assert tested == [0, 2, 4, 5]


def test_without_training_rounds_are_only_counted() -> None:
    """Analytics: the version grows, the weights stay."""
    learning = job()
    learning.skip(0)
    assert (learning.version, learning.moving_loss) == (1, None)
