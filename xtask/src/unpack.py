"""Takes files out of Python packages: unpack.py OUT PATTERN ARCHIVE...

A regular file whose path begins with PATTERN (a regular expression) is written to OUT under the rest of its
path. Files called NAME.part00, NAME.part01, ... are joined to NAME, in the order of their numbers.
"""

import re
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath


def members(archive):
    """Names of an archive's regular files, and how to open each."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                if not info.is_dir():
                    yield info.filename, lambda info=info: file.open(info)
    else:
        with tarfile.open(archive) as file:
            for info in file:
                if info.isfile():
                    yield info.name, lambda info=info: file.extractfile(info)


def write(out, pattern, archives):
    prefix = re.compile(pattern)
    parts = {}
    count = 0
    for archive in archives:
        for name, open_member in members(archive):
            match = prefix.match(name)
            if not match:
                continue
            rest = PurePosixPath(name[match.end() :])
            if rest.is_absolute() or ".." in rest.parts or not rest.parts:
                sys.exit(f"{archive}: '{name}' leads out of its folder")
            target = out / rest
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_member() as source, open(target, "wb") as sink:
                shutil.copyfileobj(source, sink)
            count += 1
            part = re.fullmatch(r"(.+)\.part(\d+)", target.name)
            if part:
                parts.setdefault(target.with_name(part[1]), []).append((int(part[2]), target))
    if not count:
        sys.exit(f"{', '.join(archives)}: no file is called {pattern}...")
    for whole, pieces in parts.items():
        pieces.sort()
        numbers = [number for number, _ in pieces]
        if numbers != list(range(len(numbers))):
            sys.exit(f"{whole.name}: parts {numbers}, expected 0 to {len(numbers) - 1}")
        with open(whole, "wb") as sink:
            for _, piece in pieces:
                with open(piece, "rb") as source:
                    shutil.copyfileobj(source, sink)
                piece.unlink()


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
