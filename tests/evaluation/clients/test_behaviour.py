from __future__ import annotations

import json
from itertools import islice, pairwise
from pathlib import Path

import msgspec
import pytest

from evaluation.clients.behaviour import (
    Behaviour,
    ClientFiles,
    SimulatedClient,
    TaskCost,
    share_out,
    with_samples,
)
from evaluation.clients.dispatcher import behaviour_settings, read_behaviour
from evaluation.jobs.profiles import JobProfile
from evaluation.jobs.yaml_file import SettingsError

DAY_S = 86_400.0


def behaviour(clients: int = 12, seed: int = 3, **changes: object) -> Behaviour:
    return Behaviour(clients, seed, DAY_S, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("dispatchers", [1, 2, 3, 5])
def test_several_dispatchers_simulate_each_client_once(dispatchers: int) -> None:
    """Together they are the clients of the seed, each in exactly one of them, all different.

    Fault F10: every dispatcher seeded the same generator, so all simulated the same devices.
    """
    made = behaviour()
    shared = [made.draw(own) for own in share_out(12, dispatchers)]
    together = [client for clients in shared for client in clients]
    assert together == made.draw()
    assert len({client.device_id for client in together}) == 12
    assert len({client.speed_ms for client in together}) > 6


def test_a_client_is_the_same_in_any_population_and_another_with_another_seed() -> None:
    """Client 4 does not depend on how many there are; it does on the seed."""
    assert behaviour(12).draw()[4] == behaviour(50).draw([4])[0]
    assert behaviour(seed=4).draw()[4] != behaviour(seed=3).draw()[4]


def test_availability_repeats_and_nobody_leaves_for_good() -> None:
    """After a period a client is there at the same hours again, and so on for ever.

    Fault F15: the original's clients ended with their trace.
    """
    client = behaviour().draw()[0]
    count = len(client.sessions)
    sessions = list(islice(client.all_sessions(), 3 * count))
    assert count > 0
    assert sessions[2 * count] == tuple(at + 2 * DAY_S for at in sessions[0])
    assert all(start < end <= after for (start, end), (after, _) in pairwise(sessions))
    spent_s = sum(end - start for start, end in client.sessions)
    assert client.active_s(5 * DAY_S) == pytest.approx(5 * spent_s)


def test_an_ideal_client_is_always_there() -> None:
    """Its one session is the whole period."""
    client = behaviour(ideal=True).draw()[1]
    assert list(islice(client.all_sessions(), 2)) == [(0.0, DAY_S), (DAY_S, 2 * DAY_S)]


def test_the_originals_files_are_read(tmp_path: Path) -> None:
    """Specs, capacities and availability come from the files, in an order of the seed."""
    phone = {"device": "x", "cpu_f": 99.0, "ram": 4.0, "fp16_mem": 800.0, "android_os": 11.0}
    texts = {
        "spec": {str(i): phone | {"speed": 10.0 * (i + 1)} for i in range(4)},
        "comm": {str(i + 1): {"computation": 1.0, "communication": 1000.0 + i} for i in range(4)},
        "avail": {
            str(i + 1): {
                "active": [10.0 + i, 100.0],
                "inactive": [50.0, 70.0],
                "finish_time": 150.0,
            }
            for i in range(4)
        },
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(text))
    files = ClientFiles(**{name: tmp_path / f"{name}.json" for name in texts})
    clients = behaviour(4, files=files).draw()
    assert sorted(client.speed_ms for client in clients) == [10.0, 20.0, 30.0, 40.0]
    assert sorted(client.bandwidth_kbps for client in clients) == [1000, 1001, 1002, 1003]
    assert {client.spec["cpu_f"] for client in clients} == {24.8}
    assert min(client.sessions for client in clients) == ((10.0, 50.0), (100.0, 150.0))


@pytest.mark.parametrize(
    "text,says",
    [
        ("[]", "no entries"),
        ("[0]", "entry 0: communication is 0"),
        ('{"a": 1}', "keys must be numbers"),
        ("[", "Expecting value"),
        ("7", "a list or an object"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    """A file of capacities that cannot be used is named, with the entry."""
    path = tmp_path / "comm.json"
    path.write_text(text)
    with pytest.raises(SettingsError) as refused:
        behaviour(files=ClientFiles(comm=path)).draw()
    assert str(refused.value).startswith(f"{path}: ")
    assert says in str(refused.value)


def phone(**changes: float) -> SimulatedClient:
    spec = {"cpu_f": 6.0, "ram": 4.0, "fp16_mem": 800.0, "android_os": 10.0} | changes
    client = SimulatedClient(0, "ab" * 16, spec, 50.0, 8_000.0, ((0.0, 9.0),), DAY_S)
    [client] = with_samples([client], {"digits": [150], "mnist5k": [9]})
    return client


def test_a_task_takes_three_inferences_a_sample_and_the_model_twice() -> None:
    """Computing and sending add up; analytics neither trains nor sends anything large up."""
    profile = JobProfile(demand=1, total_round=1, local_steps=10, batch_size=20)
    assert phone().task_s(TaskCost.of(profile, 4_000.0)) == 3 * 10 * 20 * 0.05 + 2 * 0.5
    assert phone().task_s(TaskCost.of(profile, 4_000.0, analytics=True)) == 10 * 20 * 0.05 + 0.5


def test_a_task_of_fed_prox_is_cut_to_what_fits_the_time() -> None:
    """As many steps as fit beside both transfers, at least one; of other jobs all or nothing."""
    values = {"demand": 1, "total_round": 1, "local_steps": 10, "batch_size": 20}
    prox = JobProfile.model_validate(values | {"gradient_policy": "fed-prox"})
    cost = TaskCost.of(prox, 4_000.0)  # ten steps of 3 s and two transfers of 0.5 s
    done = {left_s: cost.within(left_s, 50.0, 8_000.0) for left_s in (31, 30.9, 10, 9.9, 4, 0)}
    assert [cut.steps for cut in done.values()] == [10, 9, 3, 2, 1, 1]
    assert [phone().task_s(cut) for cut in done.values()] == pytest.approx([31, 28, 10, 7, 4, 4])
    for other in (
        TaskCost.of(JobProfile.model_validate(values), 4_000.0),
        TaskCost.of(prox, 4_000.0, analytics=True),
    ):
        assert other.within(2.0, 50.0, 8_000.0) == other


def test_a_client_suits_a_job_whose_both_constraints_it_meets() -> None:
    """Each bound counts, the private one too, which is of the job's own data set."""
    profile = JobProfile(
        demand=1, total_round=1, public_constraint={"cpu_f": 6, "ram": 4},
        private_constraint={"dataset_size": 150},
    )  # fmt: skip
    assert phone().suits(profile)
    assert not phone(cpu_f=5.9).suits(profile)
    tight = profile.model_copy(update={"private_constraint": {"dataset_size": 151.0}})
    assert not phone().suits(tight)
    assert phone().private_spec == {"dataset_size_digits": 150.0, "dataset_size_mnist5k": 9.0}
    assert not phone().suits(profile.model_copy(update={"dataset": "mnist5k"}))
    assert not phone().suits(profile.model_copy(update={"dataset": "femnist"}))


def test_a_dispatcher_gets_the_files_that_its_parent_was_given(tmp_path: Path) -> None:
    """Their paths travel as text, and come out as they went in."""
    made = behaviour(files=ClientFiles(spec=tmp_path / "specs.json", avail=tmp_path / "avail.json"))
    text = msgspec.json.encode(behaviour_settings(made))
    assert read_behaviour(msgspec.json.decode(text)) == made
