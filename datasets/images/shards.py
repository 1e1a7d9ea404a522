"""Shards of images, as of webdataset: tar files, unpacked once into the cache of this machine."""

import hashlib
import os
import shutil
import tarfile
from pathlib import Path

from wellposed.datasets.checks import reading
from wellposed.remote import cache_folder

SHARD = ".tar"


def is_shard(path: Path) -> bool:
    """Tell whether a path is a tar file of images."""
    return path.suffix.lower() == SHARD and path.is_file()


def unpacked(path: Path) -> Path:
    """Return the folder with the files of a tar file, which is unpacked if it is new or changed.

    Training draws its crops from all images in any order, as a function of the step alone, so that
    a run resumes exactly. A tar file can be read only from its beginning, and is thus unpacked.

    Raises:
        FileError: the file is no tar file or damaged, has files that would lie outside the
            folder, or the cache cannot be written.
    """
    state = path.stat()
    facts = f"{path.resolve()} {state.st_size} {state.st_mtime_ns}"
    folder = cache_folder("shards") / hashlib.sha256(facts.encode()).hexdigest()[:16] / path.stem
    if folder.is_dir():
        return folder
    part = folder.with_name(f".part-{os.getpid()}-{folder.name}")
    with reading(path, "tar"):
        try:
            part.mkdir(parents=True)
            with tarfile.open(path, "r:") as file:
                file.extractall(part, filter="data")
            if not folder.is_dir():  # another process may have been faster
                part.replace(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder
