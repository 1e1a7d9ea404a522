"""Publishing of priors, against a mock of the hub."""

import hashlib
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from tests.helpers import rand

from wellposed import priors
from wellposed.errors import FileError, WellposedError
from wellposed.priors.stored.publishing import with_metadata
from wellposed.priors.stored.registry import shipped


class Hub:
    """Holds repositories in folders, as the hub does."""

    def __init__(self, folder):
        self.folder, self.calls = folder, []

    def create_repo(self, repository, private, exist_ok):
        self.calls.append((repository, private, exist_ok))

    def create_commit(self, repository, operations, commit_message):
        place = self.folder / repository
        place.mkdir(parents=True, exist_ok=True)
        for operation in operations:
            (place / operation.path_in_repo).write_bytes(operation.path_or_fileobj)
        return SimpleNamespace(commit_url=f"https://hub/{repository}")

    def snapshot_download(self, repository, allow_patterns):
        return str(self.folder / repository)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    found = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: found)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found.snapshot_download)
    return found


def test_a_published_prior_is_loaded_again(hub):
    folder = shipped()["haze-rf"]
    address = priors.publish(folder, "somebody/haze", licence="cc-by-4.0", private=True)
    assert address == "https://hub/somebody/haze"
    assert hub.calls == [("somebody/haze", True, True)]
    card = (hub.folder / "somebody/haze/README.md").read_text()
    mark = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert card.startswith("---\nlicense: cc-by-4.0\n")
    assert f"sha256: {mark}" in card
    assert card.endswith((folder / "README.md").read_text())
    own, loaded = priors.load("haze-rf"), priors.load("somebody/haze")
    x = rand(1, own.channels, 16, 16).float()
    assert torch.equal(own.denoise(x, own.schedule.T), loaded.denoise(x, own.schedule.T))


def test_metadata_is_replaced_not_repeated():
    once = with_metadata("# A prior\n", "mit", "1")
    assert with_metadata(once, "mit", "1") == once
    assert with_metadata(once, "mit", "2").count("sha256") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repository": "name"}, "repository: got 'name', accepted: \"user/name\""),
        ({"licence": "CC BY"}, "licence: got 'CC BY'"),
        ({"path": "nowhere"}, "has no config.json, model.safetensors, README.md"),
    ],
)
def test_what_is_wrong_is_named(change, message, hub):
    given = {"path": shipped()["haze-rf"], "repository": "a/b", "licence": "mit"} | change
    with pytest.raises(WellposedError) as caught:
        priors.publish(**given)
    assert message in str(caught.value)
    assert not hub.calls


def test_refusals_of_the_hub_are_told(hub, monkeypatch):
    def refuse(*args, **others):
        raise RuntimeError("401 Unauthorized")

    monkeypatch.setattr(hub, "create_commit", refuse)
    with pytest.raises(FileError, match="cannot publish 'a/b': 401"):
        priors.publish(shipped()["haze-rf"], "a/b", licence="mit")


def test_damaged_priors_are_not_published(hub, tmp_path):
    shutil.copytree(shipped()["haze-rf"], tmp_path / "p")
    (tmp_path / "p" / "model.safetensors").write_bytes(b"0")
    with pytest.raises(WellposedError):
        priors.publish(tmp_path / "p", "a/b", licence="mit")
    assert not hub.calls
