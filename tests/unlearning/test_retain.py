"""Token weights of a batch against plain loops: the right token, the right label, nothing from
padding.
"""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.unlearning.cases import tiny_config
from trace_engine.models import Encoded, RoutingTap, collate
from trace_engine.unlearning import Session
from trace_engine.unlearning.schedule import RETAIN, DocumentOrder


def routed(session: Session, ids: tuple[int, ...]) -> dict[int, list[set[int]]]:
    """Experts of each token of one document alone: decoder layer -> one set a position."""
    found: dict[int, list[set[int]]] = {}

    def keep(site: int, index_TK: Tensor, weight_TK: Tensor) -> None:
        layer = session.opened.sites[site].layer
        found[layer] = [set(row) for row in index_TK.tolist()]

    with torch.no_grad(), RoutingTap(session.opened.sites, keep):
        session.opened.model(input_ids=torch.tensor([ids]))
    return found


def by_loops(session: Session, document: Encoded) -> list[tuple[float, float]]:
    """(weight, loss) of each label, from the fitted numbers and one label at a time."""
    fitted, experts = session.weights, routed(session, document.ids)
    with torch.no_grad():
        logits_SV = session.opened.model(input_ids=torch.tensor([document.ids])).logits[0].double()
    log_SV = torch.log_softmax(logits_SV, dim=-1)
    pairs = []
    for label in range(document.label_start, len(document.ids)):
        t = label - 1
        score = sum(
            float(coefficient)
            for cell, coefficient in zip(fitted.cells, fitted.coefficient_S, strict=True)
            if cell.expert in experts[cell.layer][t]
        )
        weight = math.exp(score) / fitted.normaliser
        pairs.append((weight, -float(log_SV[t, document.ids[label]])))
    return pairs


@pytest.mark.parametrize("prompts", [False, True])
def test_routing_at_t_weighs_the_loss_on_label_t_plus_1(tmp_path: Path, prompts: bool) -> None:
    config = tiny_config(tmp_path, weights={"rule": "exact", "hardness": 0.7}, max_steps=1)
    if prompts:
        path = Path(config.retain.source)
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [{"id": r["id"], "prompt": r["text"][:3], "gt": r["text"][3:]} for r in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Session(config) as session:
        training = session.setup.retain.training
        order = DocumentOrder(config.seed, RETAIN, len(training), config.batch_size)
        drawn = [training[index] for index in order.batch(0)]
        pairs = [pair for document in drawn for pair in by_loops(session, document)]
        row = session.train_step()
    if prompts:
        assert {document.label_start for document in drawn} == {4}  # BOS and three prompt bytes
    assert row["retain_loss"] == pytest.approx(
        sum(weight * loss for weight, loss in pairs) / len(pairs), rel=1e-5
    )
    assert row["retain_nll"] == pytest.approx(sum(loss for _, loss in pairs) / len(pairs), rel=1e-5)
    assert row["mean_weight"] == pytest.approx(sum(weight for weight, _ in pairs) / len(pairs))
    assert row["max_weight"] == pytest.approx(max(weight for weight, _ in pairs))
    # The test could not see a wrong position if all weights were alike.
    assert row["max_weight"] > 1.2
    shifted = [pair[0] for pair in pairs[1:] + pairs[:1]]
    wrong = sum(w * loss for w, (_, loss) in zip(shifted, pairs, strict=True)) / len(pairs)
    assert abs(wrong - row["retain_loss"]) > 1e-3


def test_padding_and_company_change_no_weight(tmp_path: Path) -> None:
    # Double precision, which grouped matrix products do not have: no expert is chosen by rounding.
    config = tiny_config(tmp_path, weights={"rule": "exact", "hardness": 0.7})
    eager = config.model.model_copy(update={"experts_implementation": "eager"})
    with Session(config.model_copy(update={"model": eager})) as session:
        session.opened.model.double()
        documents = sorted(session.setup.retain.training, key=lambda item: len(item.ids))
        short, long = documents[0], documents[-1]
        weights = []
        for company in ([short], [short, long], [long, short]):
            batch = collate(company, range(len(company)))
            with torch.no_grad(), session._weighting.tap():
                session.opened.model(**batch.inputs, use_cache=False)
            weighed = session._weighting.weigh(batch)
            assert weighed is not None
            row_T = weighed.weights_BT[company.index(short)]
            weights.append(row_T[: len(short.ids) - 1])
            assert not row_T[len(short.ids) - 1 :].any()
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


def test_an_unweighted_run_is_not_tapped(tmp_path: Path) -> None:
    with Session(tiny_config(tmp_path, weights={"rule": "uniform"})) as session:
        with session._weighting.tap():
            hooks = [len(site.module._forward_pre_hooks) for site in session.opened.sites]
        assert hooks == [0, 0]
        row = session.train_step()
    assert (row["ess_share"], row["mean_weight"], row["max_weight"]) == (1.0, 1.0, 1.0)
    assert row["retain_loss"] == row["retain_nll"]


def test_no_hook_outlives_a_step(tmp_path: Path) -> None:
    with Session(tiny_config(tmp_path)) as session:
        session.train_step()
        assert all(not site.module._forward_pre_hooks for site in session.opened.sites)
