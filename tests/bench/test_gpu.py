"""The GPU benchmark: what of it needs no GPU runs here on the CPU, the comparison needs one."""

import pytest
import torch

from bench.gpu import ABSENT, SMALL, counts_on, differing, main, random_model, settings, show, speed


def test_speed_profiles_what_the_bare_forward_is_given() -> None:
    opened = random_model("cpu", torch.float32, **SMALL)
    found = speed(opened, settings(20, 512), repetitions=2)
    assert found["tokens"] == sum(
        len(opened.tokenizer(text, add_special_tokens=False)["input_ids"]) + 2
        for text in _texts(20)
    )
    assert len(found["ratios"]) == 2
    assert min(found["bare_seconds"]) > 0
    text = show(
        {
            "gpu": "none",
            "hardware": "this machine",
            "parameters": opened.info.parameters,
            "speed": found | {"ratios": [1.0, 1.25, 1.5], "profile_seconds": [1.0, 2.0, 4.0]},
            "differing": (3, 400),
        }
    )
    assert "1.250 (1.000 to 1.500)" in text
    assert f"{found['tokens'] / 2:,.0f} tokens/s" in text
    assert "3 of 400 choices differ" in text


def test_random_weights_repeat_and_counts_are_compared_choice_by_choice() -> None:
    one, same = counts_on("cpu", 20), counts_on("cpu", 20)
    assert differing(one, same) == (
        0,
        int(one.forget.counts_DLE.sum() + one.retain.counts_DLE.sum()),
    )
    same.forget.counts_DLE[0, 0, 0] += 1
    same.forget.counts_DLE[0, 0, 1] -= 1
    assert differing(one, same)[0] == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where there is no GPU")
def test_without_a_gpu_nothing_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu"])
    assert main() == 0
    assert capsys.readouterr().out.strip() == ABSENT
    monkeypatch.setattr("sys.argv", ["gpu", "--require"])
    assert main() == 1


@pytest.mark.gpu
def test_counts_on_a_gpu_are_those_of_the_cpu() -> None:
    moved, choices = differing(counts_on("cpu"), counts_on("cuda"))
    assert moved <= 1e-4 * choices  # near ties only


def _texts(documents: int) -> list[str]:
    from trace_engine.sets import load_set

    config = settings(documents, 512)
    return [*load_set(config.forget).texts, *load_set(config.retain).texts]
