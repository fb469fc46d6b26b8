"""Golden conversations: a round's life, told once in ``rounds/*.txt``, played by all its copies.

After a change of the rules: ``pytest tests/golden --rewrite`` writes what the job manager shows (or
who can play it) into the files and prints the differences; they are to be read as a rule would be.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from tests.golden.conversation import Player, Script, play, read
from tests.golden.players import PLAYERS

FOLDER = Path(__file__).parent / "rounds"
SCRIPTS = [read(path) for path in sorted(FOLDER.glob("*.txt"))]
PLAYED = [
    pytest.param(script, player, id=f"{script.path.stem}-{player.name}")
    for script in SCRIPTS
    for player in PLAYERS
    if player.name not in script.without()
]


def difference(script: Script, played: Script, who: str) -> str:
    """From what the file says to what the player shows."""
    before, after = script.rendered().splitlines(), played.rendered().splitlines()
    return "\n".join(difflib.unified_diff(before, after, script.path.name, who, lineterm="", n=8))


@pytest.mark.parametrize("script,player", PLAYED)
def test_a_round_goes_as_it_is_written(
    script: Script, player: type[Player], request: pytest.FixtureRequest
) -> None:
    """Each player shows, line by line, what the file says."""
    played = play(script, player)
    changed = difference(script, played, player.name)
    leads = next(each for each in PLAYERS if each.name not in script.without())
    if changed and player is leads and request.config.getoption("--rewrite"):
        script.path.write_text(played.rendered())
        pytest.fail(f"rewritten:\n{changed}", pytrace=False)
    assert not changed, "\n" + changed


def test_conversations_are_explained_and_few_are_not_for_all() -> None:
    """Each begins with a sentence; a player is left out by its name and with the reason."""
    names = {player.name for player in PLAYERS}
    for script in SCRIPTS:
        assert script.prose().endswith("."), script.path.name
        assert set(script.without()) < names, script.path.name
        assert script.rendered() == script.path.read_text(), f"{script.path.name}: its layout"
    assert sum(not script.without() for script in SCRIPTS) >= 25
