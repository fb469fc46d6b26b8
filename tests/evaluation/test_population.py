from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from evaluation.population import (
    ATTRIBUTE_MAXIMA,
    DATASET_SIZE,
    MARGINALS,
    SPEED_MS,
    Availability,
    Failures,
    Outcome,
    Population,
)

REQUIREMENTS = {
    (2, 2, 400, 4): 0.90,
    (3, 2, 400, 4): 0.75,
    (6, 4, 800, 6): 0.50,
    (7, 6, 900, 7): 0.40,
}


@pytest.fixture(scope="module")
def large() -> Population:
    return Population.generate(10_000, seed=1)


def requirement(bounds: tuple[int, ...]) -> dict[str, float]:
    return dict(zip(ATTRIBUTE_MAXIMA, map(float, bounds), strict=True))


def test_the_same_seed_gives_the_same_devices_and_another_seed_others() -> None:
    """A population is a function of its seed alone."""
    first, again, other = (Population.generate(20, seed) for seed in (3, 3, 4))
    assert first == again
    assert not {d.device_id for d in first} & {d.device_id for d in other}
    assert [d.spec for d in first] != [d.spec for d in other]


def test_a_device_does_not_depend_on_the_size_of_the_population() -> None:
    """Device i is the same in a population of 5 and of 50."""
    assert Population.generate(5, 9).devices == Population.generate(50, 9).devices[:5]


def test_device_ids_are_32_hex_digits_and_unique(large: Population) -> None:
    """Each device has an id that the protocol takes."""
    ids = {device.device_id for device in large}
    assert len(ids) == len(large)
    assert all(re.fullmatch("[0-9a-f]{32}", device_id) for device_id in ids)


@pytest.mark.parametrize("name", [*MARGINALS, "speed_ms", "dataset_size"])
def test_the_quantiles_of_each_attribute_are_those_of_the_real_devices(
    large: Population, name: str
) -> None:
    """Quartiles are met within 6 per cent of the value, and no value is outside 0 and 100 %."""
    models = {**MARGINALS, "speed_ms": SPEED_MS, "dataset_size": DATASET_SIZE}
    drawn = [d.spec[name] if name in MARGINALS else getattr(d, name) for d in large]
    expected = models[name].quantiles
    assert np.quantile(drawn, [0.25, 0.5, 0.75]) == pytest.approx(expected[1:4], rel=0.06)
    assert expected[0] <= min(drawn)
    assert max(drawn) <= expected[4]


@pytest.mark.parametrize("probability, index", [(0, 0), (0.25, 1), (0.5, 2), (0.75, 3), (1, 4)])
def test_a_marginal_passes_through_its_quantiles(probability: float, index: int) -> None:
    """Inverting the distribution at a quantile's probability gives that quantile."""
    for model in (*MARGINALS.values(), SPEED_MS, DATASET_SIZE):
        assert model.value(probability) == pytest.approx(model.quantiles[index])


@pytest.mark.parametrize("bounds, share", REQUIREMENTS.items())
def test_eligible_shares_are_near_those_of_the_real_devices(
    large: Population, bounds: tuple[int, ...], share: float
) -> None:
    """The dependence between attributes gives the real joint shares within 0.03."""
    assert large.eligible_share(requirement(bounds)) == pytest.approx(share, abs=0.03)


def test_eligible_shares_of_a_small_population_stay_near() -> None:
    """With 300 devices the shares are within 0.08 for each of a few seeds."""
    for seed in range(5):
        population = Population.generate(300, seed)
        for bounds, share in REQUIREMENTS.items():
            assert population.eligible_share(requirement(bounds)) == pytest.approx(share, abs=0.08)


def test_better_phones_are_faster(large: Population) -> None:
    """option grows, and time per sample falls, with the computing power."""
    cpu = [device.spec["cpu_f"] for device in large]
    assert np.corrcoef(cpu, [device.option for device in large])[0, 1] > 0.5
    assert all(device.option == 1 / device.speed_ms for device in large)


def test_the_spec_follows_the_schema() -> None:
    """Names come in the operator's order, and values above its maxima are clamped."""
    population = Population.generate(50, 0, {"ram": 4.0, "cpu_f": 24.8})
    assert [*population.devices[0].spec] == ["ram", "cpu_f"]
    assert max(device.spec["ram"] for device in population) == 4.0


@pytest.mark.parametrize(
    "n, seed, schema, text",
    [
        (0, 0, ATTRIBUTE_MAXIMA, "0 devices"),
        (1, -1, ATTRIBUTE_MAXIMA, "seed -1"),
        (1, 0, {"gpu": 1.0}, "no model for attribute 'gpu'"),
    ],
)
def test_bad_arguments_are_refused_with_one_line(
    n: int, seed: int, schema: dict[str, float], text: str
) -> None:
    """The error names the argument at fault."""
    with pytest.raises(ValueError, match=text):
        Population.generate(n, seed, schema)


def test_availability_is_the_same_on_every_call_and_grows() -> None:
    """Intervals do not overlap, are at least shortest_s long but for the first, and repeat."""
    for device in Population.generate(30, 5):
        intervals = [*itertools.islice(device.availability(), 20)]
        assert intervals == [*itertools.islice(device.availability(), 20)]
        times = [*itertools.chain.from_iterable(intervals)]
        assert times == sorted(times)
        assert all(end - start >= 1.0 - 1e-9 for start, end in intervals)


def test_availability_comes_and_goes() -> None:
    """About four fifths of the devices are on at a time, and most go off within two minutes."""
    devices = Population.generate(400, 2).devices
    traces = [[*itertools.takewhile(lambda i: i[0] < 120, d.availability())] for d in devices]
    for now_s in (0.5, 30, 60, 119):
        on = sum(any(start <= now_s < end for start, end in trace) for trace in traces)
        assert 0.7 < on / len(devices) < 0.9
    assert sum(len(trace) > 1 for trace in traces) > 200


def test_failures_come_with_their_probabilities_and_repeat() -> None:
    """Fates are drawn per task, by the stated probabilities, the same on every call."""
    failures = Failures(fail=0.2, vanish=0.1)
    devices = Population.generate(1000, 0, failures=failures).devices
    fates = [device.fate(task) for device in devices for task in range(3)]
    assert fates == [device.fate(task) for device in devices for task in range(3)]
    shares = {o: sum(f.outcome is o for f in fates) / len(fates) for o in Outcome}
    assert shares[Outcome.FAIL] == pytest.approx(0.2, abs=0.03)
    assert shares[Outcome.VANISH] == pytest.approx(0.1, abs=0.03)
    assert all(0 <= fate.at_share <= 1 for fate in fates)


def test_impossible_models_are_refused() -> None:
    """Probabilities above 1 and medians of 0 seconds are errors."""
    with pytest.raises(ValueError, match="failures"):
        Failures(fail=0.8, vanish=0.3)
    with pytest.raises(ValueError, match="availability"):
        Availability(on_median_s=0)
