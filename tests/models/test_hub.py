"""A hub model in steps, against a hub that stands in a folder: what is asked for, and when."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    SafetensorsFileMetadata,
    TensorInfo,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.support.models import save_tiny_dense, tiny_olmoe
from trace_engine.config import ModelConfig
from trace_engine.errors import ModelError
from trace_engine.models import hub, inspect_model, open_model
from trace_engine.models.inspection import inspect_closely
from trace_engine.models.memory import Machine
from trace_engine.models.trial import try_experts

COMMIT = "0" * 40
CONFIG = ModelConfig(source="owner/name")
API = "trace_engine.models.hub.HfApi"


class Asked(NamedTuple):
    """One request, and the names of the files that it brought."""

    what: str
    files: tuple[str, ...] = ()


class Hub:
    """The repository `owner/name`, and a cache laid out as the hub's own."""

    def __init__(self, files: Path, cache: Path) -> None:
        self.files, self.snapshot = files, cache / "snapshots" / COMMIT
        self.asked: list[Asked] = []
        self.offline = False

    def model_info(self, *_: Any, revision: str | None = None, **options: Any) -> Any:
        self.asked.append(Asked("list"))
        if self.offline:
            raise OfflineModeIsEnabled("offline")
        assert options == {"files_metadata": True}
        return SimpleNamespace(sha=COMMIT, siblings=[self._listed(n) for n in self._names()])

    def _names(self) -> list[str]:
        found = (path for path in self.files.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.files).as_posix() for path in found)

    def _listed(self, name: str) -> Any:
        data = (self.files / name).read_bytes()
        large = name.endswith(".safetensors")
        lfs = SimpleNamespace(sha256=hashlib.sha256(data).hexdigest()) if large else None
        return SimpleNamespace(rfilename=name, size=len(data), lfs=lfs)

    def snapshot_download(
        self,
        source: str,
        *,
        revision: str | None,
        allow_patterns: Sequence[str],
        ignore_patterns: Sequence[str],
    ) -> str:
        assert (source, revision) in ((CONFIG.source, None), (CONFIG.source, COMMIT))
        if self.offline:
            if not self.snapshot.is_dir():
                raise LocalEntryNotFoundError("offline")
            return str(self.snapshot)
        # As `huggingface_hub.utils.filter_repo_objects` does.
        names = [
            name
            for name in self._names()
            if any(fnmatch.fnmatch(name, p) for p in allow_patterns)
            and not any(fnmatch.fnmatch(name, p) for p in ignore_patterns)
        ]
        self.snapshot.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copy(self.files / name, self.snapshot / name)
        self.asked.append(Asked("fetch", tuple(names)))
        return str(self.snapshot)

    def header(self, _: Any, name: str, *, revision: str) -> SafetensorsFileMetadata:
        assert revision == COMMIT
        self.asked.append(Asked("header", (name,)))
        with safe_open(self.files / name, framework="numpy") as stored:
            slices = {key: stored.get_slice(key) for key in stored.keys()}  # noqa: SIM118
        tensors = {
            key: TensorInfo(dtype=at.get_dtype(), shape=at.get_shape(), data_offsets=(0, 0))
            for key, at in slices.items()
        }
        return SafetensorsFileMetadata(metadata={}, tensors=tensors)

    @property
    def fetched(self) -> set[str]:
        return {name for request in self.asked for name in request.files if request.what == "fetch"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_olmoe(), tmp_path / "model"))


@pytest.fixture
def the_hub(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    found = Hub(model, tmp_path / "cache")
    monkeypatch.setattr(f"{API}.model_info", lambda _, *a, **k: found.model_info(*a, **k))
    monkeypatch.setattr(
        f"{API}.parse_safetensors_file_metadata",
        lambda _, source, name, revision: found.header(source, name, revision=revision),
    )
    monkeypatch.setattr(hub, "snapshot_download", found.snapshot_download)
    hub.headers.cache_clear()
    yield found
    hub.headers.cache_clear()


def test_inspecting_needs_no_weights_and_says_what_a_folder_says(the_hub: Hub) -> None:
    at_hub, here = inspect_model(CONFIG), inspect_model(ModelConfig(source=str(the_hub.files)))
    assert "config.json" in the_hub.fetched
    assert "tokenizer.json" in the_hub.fetched
    assert not any(name.endswith(".safetensors") for name in the_hub.fetched)
    assert (at_hub.fingerprint, at_hub.files) == (here.fingerprint, here.files)
    assert (at_hub.source, at_hub.revision, here.revision) == ("owner/name", COMMIT, None)
    close, there = inspect_closely(CONFIG), inspect_closely(ModelConfig(source=here.source))
    assert close.need == there.need
    assert close.memory_problem is None
    try_experts(CONFIG, tokens=16, seconds=0.001)
    assert not any(name.endswith(".safetensors") for name in the_hub.fetched)


def test_the_small_files_come_first_then_headers_then_the_weights_alone(the_hub: Hub) -> None:
    for extra in ("consolidated.00.safetensors", "original/model.safetensors", "original/x.json",
                  "pytorch_model.bin"):  # fmt: skip
        (the_hub.files / extra).parent.mkdir(exist_ok=True)
        (the_hub.files / extra).write_bytes(b"{}")
    opened = open_model(CONFIG)
    assert [request.what for request in the_hub.asked] == ["list", "fetch", "header", "fetch"]
    small, _, weights = the_hub.asked[1:]
    assert {name.rpartition(".")[2] for name in small.files} <= {"json", "jinja", "txt"}
    assert weights.files == ("model.safetensors",)
    assert not any("/" in name for name in the_hub.fetched)
    assert opened.info == inspect_model(CONFIG)
    # What is here is not asked for again, and opens without a network too.
    the_hub.asked.clear()
    assert open_model(CONFIG).info == opened.info
    assert not [name for name in the_hub.fetched if name.endswith(".safetensors")]
    the_hub.offline = True
    assert open_model(CONFIG).info == opened.info


def test_only_what_the_index_names_is_fetched(the_hub: Hub) -> None:
    whole = the_hub.files / "model.safetensors"
    with safe_open(whole, framework="pt") as stored:
        keys = list(stored.keys())
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    tensors = load_file(whole)
    for name, part in zip(names, (keys[::2], keys[1::2]), strict=True):
        save_file({key: tensors[key] for key in part}, the_hub.files / name, {"format": "pt"})
    placed = {key: names[number % 2] for number, key in enumerate(keys)}
    index = {"metadata": {}, "weight_map": placed}
    (the_hub.files / "model.safetensors.index.json").write_text(json.dumps(index))
    whole.rename(the_hub.files / "unnamed.safetensors")
    inspect_model(CONFIG)
    headers = sorted(r.files[0] for r in the_hub.asked if r.what == "header")
    assert headers == names
    open_model(CONFIG)
    assert the_hub.asked[-1] == Asked("fetch", tuple(names))
    (the_hub.files / names[1]).unlink()
    shutil.rmtree(the_hub.snapshot)
    with pytest.raises(ModelError, match=f"{names[1]} is missing, though the index names it"):
        open_model(CONFIG)


@pytest.mark.parametrize("door", [open_model, inspect_model, inspect_closely])
def test_what_cannot_be_used_is_refused_before_weights_are_asked_for(
    door: Any, the_hub: Hub, tmp_path: Path
) -> None:
    file = the_hub.files / "config.json"
    settings = json.loads(file.read_text())
    for changes, sentence in (
        ({"model_type": "strange", "auto_map": {"AutoConfig": "a.B"}}, "its own Python code"),
        ({"model_type": "strange"}, "does not know the architecture 'strange'"),
        ({"num_experts": 0}, "No routed experts found"),
        ({"num_hidden_layers": 3}, r"11 missing \(model\.layers\.2"),
    ):
        file.write_text(json.dumps(settings | changes))
        with pytest.raises(ModelError, match=sentence):
            door(CONFIG)
    the_hub.files = save_tiny_dense(tmp_path / "dense")
    shutil.rmtree(the_hub.snapshot)
    hub.headers.cache_clear()
    with pytest.raises(ModelError, match="it is a dense model"):
        door(CONFIG)
    assert "config.json" in the_hub.fetched
    assert not any(name.endswith(".safetensors") for name in the_hub.fetched)


def test_too_little_memory_or_disk_is_told_before_weights_are_asked_for(
    the_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as short:
        short.setattr("trace_engine.models.memory.machine_memory", lambda: Machine(1000))
        with pytest.raises(ModelError, match=r"this machine has 1\sKiB free.*Nothing was read"):
            open_model(CONFIG)
    kib = round((the_hub.files / "model.safetensors").stat().st_size / 1024)
    full = SimpleNamespace(free=2048)
    with monkeypatch.context() as short:
        short.setattr("trace_engine.models.files.shutil.disk_usage", lambda _: full)
        sentence = rf"has {kib}\sKiB of weights to fetch, and the disk .* has 2\sKiB free: make"
        with pytest.raises(ModelError, match=rf"{sentence}.*Nothing was fetched"):
            open_model(CONFIG)
        assert re.search(sentence, inspect_closely(CONFIG).memory_problem or "")
        # A commit that shares its weights with one that is here takes no room.
        blobs = the_hub.snapshot.parent.parent / "blobs"
        blobs.mkdir()
        listed = the_hub._listed("model.safetensors")
        (blobs / listed.lfs.sha256).touch()
        assert inspect_closely(CONFIG).memory_problem is None
    assert not any(name.endswith(".safetensors") for name in the_hub.fetched)


@pytest.mark.fault_row(21)
def test_only_pickles_are_refused_by_the_listing(the_hub: Hub) -> None:
    (the_hub.files / "model.safetensors").rename(the_hub.files / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickled weights \(pytorch_model.bin\)"):
        open_model(CONFIG)
    assert the_hub.asked == [Asked("list")]


def test_offline_a_model_that_was_only_looked_at_is_not_there(the_hub: Hub) -> None:
    inspect_model(CONFIG)
    the_hub.offline = True
    for door in (open_model, inspect_model):
        with pytest.raises(ModelError, match=r"the hub cannot be reached \(offline\)"):
            door(CONFIG)


def test_a_download_that_is_damaged_is_named(the_hub: Hub) -> None:
    inspect_model(CONFIG)  # its headers are known
    weights = the_hub.files / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"owner/name: model\.safetensors is damaged or incompl"):
        open_model(CONFIG)
