"""Publishing of priors on the Hugging Face hub."""

import hashlib
import re
from pathlib import Path

from wellposed.checks import checked, require_path
from wellposed.errors import FileError, require
from wellposed.priors.checkpoints.diffusers_files import HUB_ID
from wellposed.priors.stored.store import load_prior

NEEDED, OPTIONAL = ("config.json", "model.safetensors", "README.md"), ("ATTRIBUTION.csv",)
"""Files of a prior that are published."""


@checked
def publish(path: str | Path, repository: str, *, licence: str, private: bool = False) -> str:
    """Upload a prior of `wellposed train` to the hub; `load` then takes the repository's name.

    Its card gets the metadata of the hub: the licence, the library, and the sha256 of the weights.
    The token is that of ``hf auth login``.

    Args:
        path: the folder of the prior, with its card README.md.
        repository: "user/name"; it is made if it does not exist.
        licence: identifier of the hub for the terms of the weights, e.g. "cc-by-4.0".
        private: make a new repository private.

    Returns:
        The address of the commit.

    Raises:
        FileError: a file is missing, or the hub cannot be reached or refuses.
        CheckpointError: the folder holds no prior that can be loaded.
        ArgumentError: a wrong name of a repository or licence.

    Example:
        >>> from wellposed import priors
        >>> priors.publish("my-prior", "me/my-prior", licence="cc-by-4.0")  # hub # doctest: +SKIP
        >>> prior = priors.load("me/my-prior")  # hub # doctest: +SKIP
    """
    folder = require_path("path", path)
    accepted = '"user/name"'
    require(bool(HUB_ID.fullmatch(repository)), "repository", repository, accepted)
    require(bool(re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence)), "licence", licence, "cc-by-4.0")
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise FileError(f"path: {str(folder)!r} has no {', '.join(missing)}")
    load_prior(folder)
    from huggingface_hub import CommitOperationAdd, HfApi

    files = [name for name in (*NEEDED, *OPTIONAL) if (folder / name).is_file()]
    content = {name: (folder / name).read_bytes() for name in files}
    mark = hashlib.sha256(content["model.safetensors"]).hexdigest()
    content["README.md"] = with_metadata(content["README.md"].decode(), licence, mark).encode()
    operations = [CommitOperationAdd(name, values) for name, values in content.items()]
    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.create_commit(
            repository, operations, commit_message=f"Prior of wellposed, sha256 {mark[:16]}"
        )
    except Exception as error:  # clients of the hub raise errors of their HTTP library
        raise FileError(f"repository: cannot publish {repository!r}: {error}") from error
    return str(commit.commit_url)


def with_metadata(card: str, licence: str, mark: str) -> str:
    """Return a card with the metadata of the hub in place of its own, if it has any."""
    body = re.sub(r"\A---\n.*?\n---\n+", "", card, flags=re.DOTALL)
    lines = (
        f"license: {licence}",
        "library_name: wellposed",
        "tags: [diffusion, inverse-problems]",
        f"sha256: {mark}",
    )
    return "---\n" + "\n".join(lines) + f"\n---\n\n{body}"
