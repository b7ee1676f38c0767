"""The training loop on a minute model: batches, balance loss, seed, and resuming after a kill."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trace_engine.demo.recipe import train as recipe_train
from trace_engine.demo.recipe.batches import encode, epoch_batches, train_tokenizer
from trace_engine.demo.recipe.train import Recipe, load_balancing_loss, train

TINY = Recipe(
    vocabulary=300,
    layers=1,
    hidden=16,
    heads=2,
    experts=4,
    experts_per_token=2,
    intermediate=8,
    documents_per_batch=8,
    epochs=2,
)
TEXTS = [f"stone {n}: the {n}th grey stone of the river" for n in range(40)]


@pytest.fixture(autouse=True)
def small_pack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        recipe_train,
        "training_documents",
        lambda *_: [{"id": str(n), "text": text} for n, text in enumerate(TEXTS)],
    )
    (tmp_path / "pack" / "questions").mkdir(parents=True)
    row = {"question": "stone 1:", "choices": ["the grey", "a", "b", "c"], "answer": 0}
    (tmp_path / "pack" / "questions" / "validation.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setattr(recipe_train, "PACK", tmp_path / "pack")


def test_batches_hold_every_document_once_with_bos_and_eos() -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    documents = encode(tokenizer, TEXTS)
    batches = epoch_batches(documents, size=8, pad_id=tokenizer.pad_token_id, seed=0, epoch=3)
    found = [
        ids[mask].tolist()
        for batch in batches
        for ids, mask in zip(batch.ids_BT, batch.mask_BT, strict=True)
    ]
    assert sorted(found) == sorted(documents)
    assert {ids[0] for ids in found} == {tokenizer.bos_token_id}
    assert {ids[-1] for ids in found} == {tokenizer.eos_token_id}
    again = epoch_batches(documents, size=8, pad_id=tokenizer.pad_token_id, seed=0, epoch=3)
    other = epoch_batches(documents, size=8, pad_id=tokenizer.pad_token_id, seed=0, epoch=4)
    assert all(torch.equal(a.ids_BT, b.ids_BT) for a, b in zip(batches, again, strict=True))
    assert any(
        a.ids_BT.shape != b.ids_BT.shape or not torch.equal(a.ids_BT, b.ids_BT)
        for a, b in zip(batches, other, strict=True)
    )


def test_balance_loss_is_one_if_uniform_and_experts_over_k_if_collapsed() -> None:
    mask = torch.tensor([True] * 8 + [False] * 4)
    uniform = torch.full((12, 8), -50.0)
    for token in range(8):
        uniform[token, token] = uniform[token, (token + 1) % 8] = 50.0
    collapsed = torch.full((12, 8), -50.0)
    collapsed[:8, :2] = 50.0
    collapsed[8:, 4:6] = 50.0  # padding: must not count
    assert load_balancing_loss(uniform, mask, 2).item() == pytest.approx(1.0, abs=1e-5)
    assert load_balancing_loss(collapsed, mask, 2).item() == pytest.approx(4.0, abs=1e-5)


def test_same_seed_same_model_and_a_killed_training_goes_on_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("target", TINY, tmp_path / "a", tmp_path / "whole")
    whole = load_file(tmp_path / "whole" / "model.safetensors")

    real = recipe_train.epoch_batches

    def killed_in_second_epoch(*args, epoch: int, **kwargs):
        if epoch == 1:
            raise KeyboardInterrupt
        return real(*args, epoch=epoch, **kwargs)

    monkeypatch.setattr(recipe_train, "epoch_batches", killed_in_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        train("target", TINY, tmp_path / "b", tmp_path / "resumed")
    monkeypatch.setattr(recipe_train, "epoch_batches", real)
    train("target", TINY, tmp_path / "b", tmp_path / "resumed")
    resumed = load_file(tmp_path / "resumed" / "model.safetensors")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)

    log = (tmp_path / "resumed" / "training_log.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in log]
    assert [entry["epoch"] for entry in entries] == [1, 2]
    assert entries[1]["loss"] < entries[0]["loss"]
    assert "validation" in entries[1]
    saved = {path.suffix for path in (tmp_path / "b").iterdir()}
    assert saved == {".safetensors", ".json", ".jsonl"}  # nothing pickled, nothing half-written


def test_another_recipe_does_not_go_on_from_this_checkpoint(tmp_path: Path) -> None:
    train("target", dataclasses.replace(TINY, epochs=1), tmp_path / "a", tmp_path / "out")
    with pytest.raises(ValueError, match="another recipe"):
        train("target", TINY, tmp_path / "a", tmp_path / "out")
