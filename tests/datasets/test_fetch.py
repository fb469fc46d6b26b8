"""Fetching data sets, from a server of the test's own."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import importlib.util
import io
import shutil
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "datasets" / "fetch.py"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files with ranges, as servers of large files have them; quiet."""

    asked: list[str | None]

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content, range_ = path.read_bytes(), self.headers.get("Range")
        type(self).asked.append(range_)
        start = int(range_.removeprefix("bytes=").rstrip("-")) if range_ else 0
        self.send_response(206 if range_ else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:])

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@dataclasses.dataclass(frozen=True)
class Mirror:
    """A server and the folder that it serves."""

    url: str
    folder: Path
    asked: list[str | None]


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    folder = tmp_path / "served"
    folder.mkdir()
    asked: list[str | None] = []
    make = functools.partial(type("MyHandler", (Handler,), {"asked": asked}), directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), make) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Mirror(f"http://127.0.0.1:{server.server_port}", folder, asked)
        server.shutdown()
        thread.join()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, which knows Fashion-MNIST by small files of the test."""
    spec = importlib.util.spec_from_file_location("fetch", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fetch", module)
    spec.loader.exec_module(module)
    files = tuple(
        dataclasses.replace(
            file,
            size=len(content(file.name)),
            sha256=hashlib.sha256(content(file.name)).hexdigest(),
        )
        for file in module.SOURCES["fashion_mnist"].files
    )
    small = dataclasses.replace(module.SOURCES["fashion_mnist"], files=files)
    monkeypatch.setitem(module.SOURCES, "fashion_mnist", small)
    for name in ("femnist", "openimage", "speech"):
        less = dataclasses.replace(module.SOURCES[name], about_bytes=1_000)
        monkeypatch.setitem(module.SOURCES, name, less)
    return module


def content(name: str) -> bytes:
    return (name * 100).encode()


def serve_fashion(script: ModuleType, mirror: Mirror) -> None:
    for file in script.SOURCES["fashion_mnist"].files:
        (mirror.folder / file.name).write_bytes(content(file.name))


def pack(path: Path, files: dict[str, str]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))


TRAIN = "client_id,sample_path,label_name,label_id\n" + "".join(
    f"{client},{client}_{sample}.png,a,0\n" for client in range(5) for sample in range(4)
)
FEMNIST = {
    "femnist/client_data_mapping/train.csv": TRAIN,
    "femnist/client_data_mapping/test.csv": TRAIN,
    "femnist/data/0_0.png": "png",
}


def test_files_are_fetched_and_checked(
    script: ModuleType, mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All files come, have their checksums, and are not fetched again."""
    serve_fashion(script, mirror)
    arguments = ["fashion_mnist", str(tmp_path / "data"), "--from", mirror.url]
    assert script.main(arguments) == 0
    home = tmp_path / "data" / "fashion_mnist"
    assert {path.name for path in home.iterdir()} == {
        file.name for file in script.SOURCES["fashion_mnist"].files
    }
    assert script.main(["fashion_mnist", str(tmp_path / "data"), "--check"]) == 0
    fetched = len(mirror.asked)
    assert script.main(arguments) == 0
    assert len(mirror.asked) == fetched == 4
    assert "is there already" in capsys.readouterr().out


def test_a_wrong_checksum_is_refused(
    script: ModuleType, mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of the right size and other bytes is put aside and named, with both checksums."""
    serve_fashion(script, mirror)
    path = mirror.folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[::-1])
    assert script.main(["fashion_mnist", str(tmp_path), "--from", mirror.url]) == 1
    said = capsys.readouterr().err
    assert "train-labels-idx1-ubyte.gz: SHA-256 is" in said
    assert said.count("\n") == 1
    home = tmp_path / "fashion_mnist"
    assert not (home / path.name).exists()
    assert (home / f"{path.name}.bad").is_file()


def test_a_wrong_size_is_refused(
    script: ModuleType, mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that announces another size is not even listened to."""
    serve_fashion(script, mirror)
    (mirror.folder / "train-images-idx3-ubyte.gz").write_bytes(b"short")
    assert script.main(["fashion_mnist", str(tmp_path), "--from", mirror.url]) == 1
    assert "5 bytes, 2,600 expected" in capsys.readouterr().err


def test_a_cut_transfer_goes_on(script: ModuleType, mirror: Mirror, tmp_path: Path) -> None:
    """What an earlier try left behind is not fetched again."""
    serve_fashion(script, mirror)
    home = tmp_path / "fashion_mnist"
    home.mkdir()
    name = "train-images-idx3-ubyte.gz"
    (home / f"{name}.part").write_bytes(content(name)[:1_000])
    assert script.main(["fashion_mnist", str(tmp_path), "--from", mirror.url]) == 0
    assert mirror.asked[0] == "bytes=1000-"
    assert (home / name).read_bytes() == content(name)


def test_an_archive_is_unpacked_whole(
    script: ModuleType, mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder that has the tables becomes the data set's; the checksum is said and kept."""
    archive = mirror.folder / "femnist.tar.gz"
    pack(archive, FEMNIST)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    data = tmp_path / "data"
    assert script.main(["femnist", str(data), "--from", mirror.url]) == 0
    assert (data / "femnist" / "client_data_mapping" / "train.csv").read_text() == TRAIN
    assert digest in (data / "femnist" / "SHA256SUMS").read_text()
    assert digest in capsys.readouterr().out
    assert [path.name for path in data.iterdir()] == ["femnist"]


def test_a_demanded_checksum_is_demanded(
    script: ModuleType, mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where none is published, --sha256 refuses other bytes."""
    pack(mirror.folder / "femnist.tar.gz", FEMNIST)
    arguments = ["femnist", str(tmp_path), "--from", mirror.url, "--sha256", "0" * 64]
    assert script.main(arguments) == 1
    assert f"{'0' * 64} expected" in capsys.readouterr().err
    assert not (tmp_path / "femnist").exists()


@pytest.mark.parametrize(
    "files, said",
    [
        ({"femnist/readme": ""}, "there is no client_data_mapping/train.csv in it"),
        ({"../evil": "", **FEMNIST}, "cannot be unpacked"),
        ({"/evil/../../x": "", **FEMNIST}, "cannot be unpacked"),
    ],
)
def test_an_archive_that_is_another(
    script: ModuleType,
    mirror: Mirror,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    files: dict[str, str],
    said: str,
) -> None:
    """An archive without the tables, or with paths that lead out of it, leaves nothing behind."""
    pack(mirror.folder / "femnist.tar.gz", files)
    data = tmp_path / "data"
    assert script.main(["femnist", str(data), "--from", mirror.url]) == 1
    assert said in capsys.readouterr().err
    assert [path.name for path in data.iterdir()] == ["femnist.tar.gz"]
    assert not (tmp_path / "evil").exists()


def test_offline_it_is_said_what_is_missing(
    script: ModuleType, mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the file on the server, the line names it, where it belongs, and how to go on."""
    for url in (mirror.url, "http://127.0.0.1:1"):
        assert script.main(["femnist", str(tmp_path), "--from", url]) == 1
        said = capsys.readouterr().err
        assert f"{url}/femnist.tar.gz cannot be had" in said
        assert f"missing is {tmp_path / 'femnist.tar.gz'}" in said
        assert said.count("\n") == 1
    pack(tmp_path / "femnist.tar.gz", FEMNIST)
    assert script.main(["femnist", str(tmp_path), "--from", "http://127.0.0.1:1"]) == 0


def test_checking_fetches_nothing(
    script: ModuleType, mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--check names every file that is missing and where it comes from."""
    assert script.main(["femnist", str(tmp_path), "--check", "--from", mirror.url]) == 1
    said = capsys.readouterr().out
    for part in ("train.csv is missing", "test.csv is missing", "fedscale", "femnist.tar.gz"):
        assert part in said
    assert mirror.asked == []


def test_fewer_clients_can_be_kept(script: ModuleType, mirror: Mirror, tmp_path: Path) -> None:
    """--cut keeps the first clients and as large a share of the test split, from the whole."""
    pack(mirror.folder / "femnist.tar.gz", FEMNIST)
    assert script.main(["femnist", str(tmp_path), "--from", mirror.url]) == 0
    mapping = tmp_path / "femnist" / "client_data_mapping"
    for clients in (2, 3):
        assert script.main(["femnist", str(tmp_path), "--cut", str(clients)]) == 0
        assert (mapping / "train.csv").read_text() == TRAIN[: TRAIN.index(f"{clients},{clients}_")]
        assert (mapping / "test.csv").read_text().count("\n") == 1 + 4 * clients
    assert (mapping / "train.all.csv").read_text() == TRAIN


@pytest.mark.parametrize(
    "table,says", [("", "no rows"), ("client_id\n", "no rows"), ("who\n1\n", "no column client_id")]
)
def test_a_table_that_cannot_be_cut_is_one_line(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, says: str
) -> None:
    """It is named, and stays as it was."""
    mapping = tmp_path / "femnist" / "client_data_mapping"
    mapping.mkdir(parents=True)
    for split in ("train", "test"):
        (mapping / f"{split}.csv").write_text(table)
    assert script.main(["femnist", str(tmp_path), "--cut", "2"]) == 1
    assert f"train.all.csv: {says}" in capsys.readouterr().err
    assert (mapping / "train.csv").read_text() == table


def test_what_is_there_needs_no_room(
    script: ModuleType, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive that was fetched elsewhere is not counted among what is still to come."""
    pack(mirror.folder / "femnist.tar.gz", FEMNIST)
    archive = tmp_path / "femnist.tar.gz"
    archive.write_bytes((mirror.folder / "femnist.tar.gz").read_bytes())
    size = archive.stat().st_size
    small = dataclasses.replace(script.SOURCES["femnist"], about_bytes=size)
    monkeypatch.setitem(script.SOURCES, "femnist", small)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 * size))
    assert script.main(["femnist", str(tmp_path)]) == 0


def test_all_that_there_is(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a name the data sets are listed; those of packages say so; others are refused."""
    assert script.main([]) == 0
    listed = capsys.readouterr().out
    for name in ("fashion_mnist", "femnist", "openimage", "speech", "digits", "CC BY 4.0"):
        assert name in listed
    assert script.main(["digits"]) == 0
    with pytest.raises(SystemExit) as refused:
        script.main(["mnist", "x"])
    assert refused.value.code == 2


def test_a_full_disk_is_said_before(
    script: ModuleType, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """What would not fit is not begun."""
    large = dataclasses.replace(script.SOURCES["femnist"], about_bytes=10**18)
    monkeypatch.setitem(script.SOURCES, "femnist", large)
    assert script.main(["femnist", str(tmp_path), "--from", mirror.url]) == 1
    assert "are needed" in capsys.readouterr().err
    assert mirror.asked == []


def test_what_is_in_the_way_is_said(
    script: ModuleType, mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of the name that is not the data set is left alone, before anything is fetched."""
    (tmp_path / "femnist").mkdir()
    assert script.main(["femnist", str(tmp_path), "--from", mirror.url]) == 1
    assert "lacks train.csv; move it away" in capsys.readouterr().err
    assert mirror.asked == []
