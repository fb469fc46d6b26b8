"""The commands `propius eval executor` and `propius eval worker`: one line for what cannot be."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from evaluation.eval_command import app

NOWHERE = "tcp://127.0.0.1:9"


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["executor", "--security", "some"], "executor: --security some: it is loopback or none"),
        (["executor", "--host", "0.0.0.0"],
         "executor: --host 0.0.0.0 is reached by others; say --security none to allow it"),
        (["executor", "--host", "here"], "executor: --host here: an IP address is needed"),
        (["worker", NOWHERE, "--device", "cuda:99"], "worker: device cuda:99: "),
        (["worker", NOWHERE, "--device", "abacus"], "worker: device abacus: "),
        (["worker", "foo", "--device", "cpu"],
         "worker: cannot connect to foo"),
        (["worker", "tcp://127.0.0.1:port", "--device", "cpu"],
         "worker: cannot connect to tcp://127.0.0.1:port"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line_and_exit_code_2(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what is wrong, and nothing was started."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a worker sets it, and leaves it
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.output.strip().splitlines()
    assert line.startswith(f"propius: {says}")
