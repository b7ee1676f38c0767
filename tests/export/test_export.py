"""An export opens with plain transformers (and PEFT) and computes what the run's model computes."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.runs.real import settings, write_sets
from tests.support.models import tiny_olmoe
from trace_engine.config import UnlearnConfig
from trace_engine.errors import InputError, RunError
from trace_engine.export import export_run, forms_of
from trace_engine.models import make_trainable, open_model
from trace_engine.runs import RunDirectory
from trace_engine.runs.stopping import StopFlag
from trace_engine.runs.worker import work
from trace_engine.unlearning import unlearn

TOKENS = [[1, 40, 55, 90, 120, 33, 60], [1, 101, 77, 77, 35, 200, 9]]
KINDS = ("all", "selected_experts", "lora")
OPEN = """
import sys, torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
start, folder, out, tokens = sys.argv[1], sys.argv[2], sys.argv[3], eval(sys.argv[4])
model = AutoModelForCausalLM.from_pretrained(start or folder)
if start:
    from peft import PeftModel
    model = PeftModel.from_pretrained(model, folder)
assert AutoTokenizer.from_pretrained(folder)("a rose").input_ids
with torch.no_grad():
    save_file({"logits": model.eval()(torch.tensor(tokens)).logits.contiguous()}, out)
assert not [name for name in sys.modules if name.startswith("trace_engine")]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    """One short finished run of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    write_sets(folder)
    found = {}
    for kind in KINDS:
        # Large steps: a model that hardly moved would pass for its start model.
        config = settings(
            folder,
            name=f"a [label](http://x) of {kind}",
            trainable={"kind": kind},
            max_steps=4,
            evaluation={"every": 4, "held_out": 0.4},
            learning_rate=1e-2,
        )
        run = RunDirectory(folder / kind)
        with run.create(config):
            status = work(run, StopFlag(), base=folder / "home")
        assert status.state == "done", status.message
        found[kind] = run
    return found


def logits_elsewhere(folder: Path, out: Path, start: str = "") -> torch.Tensor:
    """Of the folder, opened in a process that has no trace_engine on its path."""
    subprocess.run(
        [sys.executable, "-I", "-c", OPEN, start, str(folder), str(out), repr(TOKENS)],
        check=True,
        cwd=out.parent,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    return load_file(out)["logits"]


def logits_of_the_run(run: RunDirectory) -> torch.Tensor:
    """Of the start model with the last checkpoint's weights: no saved model has a part in it."""
    config = run.config()
    assert isinstance(config, UnlearnConfig)
    opened = open_model(config.model)
    cells = [tuple(cell) for cell in run.facts()["selection"]["cells"]]
    trainable = make_trainable(opened, config.trainable, cells, seed=config.seed)  # type: ignore[arg-type]
    tensors, _ = run.checkpoints()[-1].load()
    trainable.load(
        {k.removeprefix("trainable/"): v for k, v in tensors.items() if k.startswith("trainable/")}
    )
    with torch.no_grad():
        found: torch.Tensor = opened.model(torch.tensor(TOKENS)).logits
    return found


@pytest.mark.slow
def test_the_adapter_of_the_best_evaluation_is_the_saved_model(tmp_path: Path) -> None:
    write_sets(tmp_path)
    config = settings(
        tmp_path,
        trainable={"kind": "lora"},
        # Breaks the retain side more with every step: the last evaluation is not the best.
        method="ga",
        weights={"rule": "uniform"},
        keep={"which": "best", "forget_loss_at_least": 0.1},
        max_steps=4,
        evaluation={"every": 2, "held_out": 0.4},
        learning_rate=1e-2,
    )
    run = RunDirectory(tmp_path / "run")
    with run.create(config):
        status = work(run, StopFlag(), base=tmp_path / "home")
    assert "The model of step 2 is saved" in status.message
    folder = export_run(run, tmp_path / "adapter", "adapter")
    found = logits_elsewhere(folder, tmp_path / "logits", str(tiny_olmoe()))
    saved = open_model(config.model.model_copy(update={"source": str(run.model_folder())}))
    with torch.no_grad():
        expected = saved.model(torch.tensor(TOKENS)).logits
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert (logits_of_the_run(run) - expected).abs().max() > 1e-2, "the last step is another model"
    card = (folder / "README.md").read_text()
    assert "after 2 updates" in card
    assert "After: step 2." in card
    assert "The model of step 2 is saved" in card


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_plain_transformers_computes_the_same(
    finished: dict[str, RunDirectory], kind: str, tmp_path: Path
) -> None:
    run = finished[kind]
    folder = export_run(run, tmp_path / "given away")
    expected = logits_of_the_run(run)
    found = logits_elsewhere(folder, tmp_path / "logits")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    start = open_model(run.config().model)
    with torch.no_grad():
        moved = (start.model(torch.tensor(TOKENS)).logits - expected).abs().max()
    assert moved > 1e-2, "the run must have changed the model for this test to mean anything"
    assert {path.suffix for path in folder.iterdir()} <= {".safetensors", ".json", ".md", ".jinja"}
    assert (folder / "tokenizer.json").is_file()


@pytest.mark.slow
def test_an_adapter_on_its_start_model_is_the_merged_model(
    finished: dict[str, RunDirectory], tmp_path: Path
) -> None:
    run = finished["lora"]
    folder = export_run(run, tmp_path / "adapter", "adapter")
    found = logits_elsewhere(folder, tmp_path / "logits", start=str(tiny_olmoe()))
    torch.testing.assert_close(found, logits_of_the_run(run), rtol=1e-4, atol=1e-4)
    written = json.loads((folder / "adapter_config.json").read_text())
    assert written["task_type"] == "CAUSAL_LM"
    assert str(tiny_olmoe()) not in (folder / "adapter_config.json").read_text()
    assert not list(folder.glob("model*"))


def test_what_cannot_be_exported_is_refused(
    finished: dict[str, RunDirectory], tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"has no adapter: its trainable\.kind is all"):
        export_run(finished["all"], tmp_path / "adapter", "adapter")
    assert forms_of(finished["lora"].config()) == ("merged", "adapter")  # type: ignore[arg-type]
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="full: expected a new"):
        export_run(finished["all"], full)
    assert (full / "thesis.txt").read_text() == "mine"
    assert [path.name for path in full.iterdir()] == ["thesis.txt"]

    stopped = RunDirectory(tmp_path / "stopped")
    with stopped.create(finished["all"].config()):
        stopped.update(state="stopped", step=2)
    with pytest.raises(RunError, match="is stopped at step 2 of 4; only a finished run"):
        export_run(stopped, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "WEIGHTS.BIN"])
def test_a_pickle_beside_the_weights_is_not_passed_on(
    finished: dict[str, RunDirectory], tmp_path: Path, name: str
) -> None:
    model = finished["all"].model_folder()
    assert model is not None
    bad = model / name
    bad.write_bytes(b"\x80\x02")
    try:
        with pytest.raises(RunError, match=f"model/{name} is a pickle"):
            export_run(finished["all"], tmp_path / "out")
    finally:
        bad.unlink()
    assert not list(tmp_path.iterdir()), "nothing half written may be left"


def test_an_adapter_needs_the_very_last_checkpoint(
    finished: dict[str, RunDirectory], tmp_path: Path
) -> None:
    last = finished["lora"].checkpoints()[-1]
    manifest = last.path / "manifest.json"
    hidden = manifest.with_suffix(".away")
    manifest.rename(hidden)
    try:
        with pytest.raises(RunError, match=r"last step \(4\) is missing or damaged"):
            export_run(finished["lora"], tmp_path / "out", "adapter")
    finally:
        hidden.rename(manifest)


def test_what_pythons_unlearn_left_is_exported_too(tmp_path: Path) -> None:
    write_sets(tmp_path)
    config = settings(tmp_path, max_steps=2, evaluation={"every": 2})
    out = tmp_path / "result"
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        unlearn(config, out=out).session.close()
    folder = export_run(out, tmp_path / "given away")
    text = (folder / "README.md").read_text()
    assert "after 2 updates" in text
    assert "Few documents are held out" in text, "what the run warned of stands in its card"
    assert (folder / "model.safetensors").read_bytes() == (
        out / "model" / "model.safetensors"
    ).read_bytes()
    facts = json.loads((out / "facts.json").read_text())
    (out / "facts.json").write_text(json.dumps({k: v for k, v in facts.items() if k != "kept"}))
    with pytest.raises(RunError, match="result is unfinished"):
        export_run(out, tmp_path / "again")
    empty = tmp_path / "nothing"
    empty.mkdir()
    (empty / "config.yaml").write_text((out / "config.yaml").read_text())
    with pytest.raises(RunError, match="is not a run"):
        export_run(empty, tmp_path / "again")


def front_matter(text: str) -> dict[str, Any]:
    import yaml

    _, head, _ = text.split("---\n", 2)
    data: dict[str, Any] = yaml.safe_load(head)
    return data


def test_the_card_says_what_was_measured(finished: dict[str, RunDirectory], tmp_path: Path) -> None:
    run = finished["selected_experts"]
    text = (export_run(run, tmp_path / "out") / "README.md").read_text()
    facts, evaluations = run.facts(), run.rows("eval")
    head = front_matter(text)
    assert head["library_name"] == "transformers"
    assert "license" not in head
    for side in ("forget", "retain"):
        assert facts[side]["fingerprint"] in text
        before, after = (row[f"{side}_nll"] for row in (evaluations[0], evaluations[-1]))
        row = next(line for line in text.splitlines() if f"loss on {side} documents" in line)
        shown = [f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"
                 for cell in (before, after)]  # fmt: skip
        assert row.split(" | ")[1:] == [*shown, f"{before['n']} |"]
    assert facts["model"]["fingerprint"] in text
    assert facts["versions"]["torch"] in text
    assert "NPO" in text
    assert "seed: 0" in text
    assert f"{facts['trainable']['parameters']:,} of {facts['trainable']['total']:,}" in text
    assert "No questions were asked" in text
    assert "relearning" in text
    assert str(tmp_path.parent) not in text
    assert str(run.path.parent) not in text, "a card must not carry the folders of a machine"
    assert str(tiny_olmoe().parent) not in text


def test_an_adapters_card_says_what_it_needs(
    finished: dict[str, RunDirectory], tmp_path: Path
) -> None:
    text = (export_run(finished["lora"], tmp_path / "out", "adapter") / "README.md").read_text()
    assert front_matter(text)["library_name"] == "peft"
    assert "PeftModel.from_pretrained" in text
