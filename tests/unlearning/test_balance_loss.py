"""The load-balancing loss that transformers adds to a model's `.loss` is in no term."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.models import tiny_olmoe
from tests.unlearning.cases import tiny_config, without_clock
from trace_engine.models import open_model
from trace_engine.unlearning import unlearn


@pytest.mark.parametrize("retain_term", ["nll", "kl"])
def test_a_model_that_reports_it_is_trained_as_one_that_does_not(
    tmp_path: Path, retain_term: str
) -> None:
    loud = tmp_path / "loud"
    shutil.copytree(tiny_olmoe(), loud)
    settings = json.loads((loud / "config.json").read_text())
    told = {"output_router_logits": True, "router_aux_loss_coef": 10.0}
    (loud / "config.json").write_text(json.dumps(settings | told))
    quiet = tiny_config(tmp_path, max_steps=2, retain_term=retain_term)
    noisy = quiet.model_copy(update={"model": quiet.model.model_copy(update={"source": str(loud)})})
    assert open_model(noisy.model).model.config.output_router_logits
    rows = [without_clock(unlearn(config).rows) for config in (quiet, noisy)]
    assert rows[0] == rows[1]
