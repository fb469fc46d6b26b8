"""The wheel holds what it should, and works where there is no checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("propius", "daemons", "evaluation")
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

# One build serves all tests of this file (`make test` gives a file to one worker).
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("cargo") is None, reason="no cargo; see scripts/toolchain.sh"),
]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a program to its end; what it says is part of the failure if it fails."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the release wheel without network: `make setup` has fetched all that it needs."""
    out = tmp_path_factory.mktemp("wheel")
    maturin = Path(sys.executable).parent / "maturin"
    run(maturin, "build", "--release", "--offline", "--locked", "--out", out, cwd=ROOT)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a virtual environment with the wheel and the packages of this one, no checkout."""
    folder = tmp_path_factory.mktemp("elsewhere")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    install = ("install", "--quiet", "--no-deps", "--no-index", wheel)
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A .pth file adds a folder, but not what the .pth files in there would add: no checkout.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def shipped_files() -> set[str]:
    """All files of the packages as they lie in the checkout, less what is built or cached."""
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    }


def test_wheel_holds_the_packages_whole(wheel: Path) -> None:
    """The wheel holds every file of the packages, the compiled core, and nothing beside them."""
    names = set(zipfile.ZipFile(wheel).namelist())
    packaged = {name for name in names if ".dist-info/" not in name}
    assert packaged == shipped_files() | {"propius/_core.abi3.so"}


def test_wheel_holds_what_is_easily_forgotten(wheel: Path) -> None:
    """Type markers, configuration files and the licence are in the wheel."""
    names = set(zipfile.ZipFile(wheel).namelist())
    dist_info = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    assert names >= {
        "daemons/py.typed",
        "evaluation/py.typed",
        "propius/_core.pyi",
        "propius/global_config.yml",
        "propius/py.typed",
        f"{dist_info}/licenses/LICENSE",
    }


def test_wheel_serves_every_python_from_3_11(wheel: Path) -> None:
    """One wheel, built against the stable ABI, serves Python 3.11 and all later ones."""
    assert "-cp311-abi3-" in wheel.name


def test_engine_loads_outside_the_checkout(elsewhere: Path) -> None:
    """From another folder `propius.engine` comes from the wheel, in its release build."""
    show = "import propius.engine as e; print(e.__file__, e.build_profile)"
    file, profile = run(elsewhere / "bin" / "python", "-I", "-c", show, cwd=elsewhere).split()
    assert Path(file).is_relative_to(elsewhere)
    assert profile == "release"


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_program_starts_outside_the_checkout(elsewhere: Path, script: str) -> None:
    """Every console script answers `--help` from the wheel alone."""
    assert "usage" in run(elsewhere / "bin" / script, "--help", cwd=elsewhere).lower()
