"""The routing probe: tokens in document order, padding gone, and the same whatever the batching."""

import numpy as np
import pytest
import torch

from tests.support.models import save_tiny_olmoe
from trace_engine.config import ModelConfig
from trace_engine.evaluation import routing_probe
from trace_engine.evaluation.probe import RoutingRecorder, probe_documents
from trace_engine.models import OpenModel, RoutingTap, open_model
from trace_engine.sets import Document

TEXTS = ["short", "a good deal longer than that", "1234", "middling text"]
DOCUMENTS = [Document(str(n), text) for n, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenModel:
    folder = save_tiny_olmoe(tmp_path_factory.mktemp("model"))
    return open_model(ModelConfig(source=str(folder), device="cpu"))


def test_probe_is_each_document_alone_one_after_the_other(opened: OpenModel) -> None:
    together = routing_probe(opened, DOCUMENTS, 64)
    alone = [routing_probe(opened, [document], 64) for document in DOCUMENTS]
    assert together.dtype == np.int16
    assert together.shape[1:] == (2, 2)
    assert np.array_equal(np.sort(together, axis=-1), np.sort(np.concatenate(alone), axis=-1))
    # BOS and EOS stand around each byte.
    assert [len(part) for part in alone] == [len(text) + 2 for text in TEXTS]


@pytest.mark.parametrize("tokens_per_batch", [1, 40])
def test_batching_does_not_matter(opened: OpenModel, tokens_per_batch: int) -> None:
    whole = routing_probe(opened, DOCUMENTS, 64)
    small = routing_probe(opened, DOCUMENTS, 64, tokens_per_batch)
    assert np.array_equal(np.sort(whole, axis=-1), np.sort(small, axis=-1))


def test_document_index_fits_the_probe(opened: OpenModel) -> None:
    document_N = probe_documents(opened, DOCUMENTS, 16)
    assert len(document_N) == len(routing_probe(opened, DOCUMENTS, 16))
    assert np.bincount(document_N).tolist() == [min(16, len(text) + 2) for text in TEXTS]


def test_no_document_gives_no_row(opened: OpenModel) -> None:
    assert routing_probe(opened, [], 64).shape[0] == 0


def test_recorder_pads_sites_with_fewer_experts_and_forgets(opened: OpenModel) -> None:
    recorder = RoutingRecorder(opened.sites)
    weight_TK = torch.ones(3, 2)
    recorder(1, torch.tensor([[4], [5], [6]]), weight_TK[:, :1])
    recorder(0, torch.tensor([[0, 1], [2, 3], [1, 7]]), weight_TK)
    assert recorder.take().tolist() == [
        [[0, 1], [4, -1]],
        [[2, 3], [5, -1]],
        [[1, 7], [6, -1]],
    ]
    with RoutingTap(opened.sites, recorder):
        opened.model(input_ids=torch.tensor([[1, 5, 6]]))
    assert recorder.take().shape == (3, 2, 2)
    with pytest.raises(KeyError):
        recorder.take()
