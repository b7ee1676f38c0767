"""What large shapes cost: a profile of many tokens on disk and on opening, a click, the map page.

No model is run: counts are drawn as Poisson numbers around a skewed router, in 1,024 blocks a side,
so that integers have the width, and noise, of real ones. Processor seconds are printed beside
seconds on the clock, because a busy machine stretches only the second. The page's reference is the
bundled profile's page, served and clicked in the same run.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench import hardware
from trace_engine.routing import Profile, contexts, expert_card, mismatch
from trace_engine.routing.counts import MAX_TOKEN_CELLS
from trace_engine.routing.profile import RoutingCounts, TokenSample
from trace_engine.routing.windows import BLOCKS, block_names

TARGETS = {"contexts": 1.0, "map_page": 1.0}
FOCUSED = """([layer, expert]) => {
  const value = name => document.querySelector(`input[aria-label="${name}"]`)?.value;
  return value('Layer') === String(layer) && value('Expert') === String(expert);
}"""
"""Whether the page's number fields name the cell that was clicked."""
DRAWN = "() => document.querySelector('.js-plotly-plot')?._fullLayout?.xaxis?._offset > 0"
"""Whether the map is there; large ones have no element for each cell."""
SAMPLED_LENGTH = 400
"""Tokens of a sampled document."""


def simulate(
    layers: int,
    experts: int,
    *,
    top_k: int = 8,
    tokens: int = 10**9,
    blocks: int = BLOCKS,
    sample: int = 200_000,
) -> Profile:
    """A profile of `tokens` tokens a side, in blocks, with a token sample; made of numpy alone."""
    rng = np.random.default_rng(0)
    bias_LE = rng.normal(0, 0.5, (layers, experts))
    vocabulary = min(50_000, MAX_TOKEN_CELLS // (layers * experts))
    zipf_V = 1 / np.arange(1, vocabulary + 1)
    zipf_V /= zipf_V.sum()

    def counts() -> tuple[RoutingCounts, np.ndarray]:
        raw_LE = np.exp(bias_LE + rng.normal(0, 0.3, (layers, experts)))
        share_LE = np.minimum(raw_LE / raw_LE.sum(axis=1, keepdims=True) * top_k, 1.0)
        tokens_D = rng.poisson(tokens / blocks, blocks)
        counts_DLE = np.empty((blocks, layers, experts), dtype=np.int64)
        for block in range(blocks):
            noise_LE = np.exp(rng.normal(0, 0.05, (layers, experts)))
            counts_DLE[block] = rng.poisson(tokens_D[block] * share_LE * noise_LE)
        totals_V = rng.poisson(0.8 * tokens * zipf_V)
        by_id_VLE = np.empty((vocabulary, layers, experts), dtype=np.int64)
        for number in range(vocabulary):
            own_LE = np.minimum(share_LE * np.exp(rng.normal(0, 1, (layers, experts))), 1.0)
            by_id_VLE[number] = rng.poisson(totals_V[number] * own_LE)
        pairs_LEE = rng.poisson(tokens * share_LE[:, :, None] * share_LE[:, None, :] / experts)
        pairs_LEE = (pairs_LEE + pairs_LEE.transpose(0, 2, 1)) // 2
        each = np.arange(experts)
        pairs_LEE[:, each, each] = counts_DLE.sum(axis=0)
        side = RoutingCounts(
            document_ids=block_names()[:blocks],
            tokens_D=tokens_D,
            counts_DLE=counts_DLE,
            gate_mass_DLE=counts_DLE * rng.uniform(0.05, 0.2, counts_DLE.shape),
            skipped_DL=np.zeros((blocks, layers), dtype=np.int64),
            coactivation_LEE=pairs_LEE,
            token_ids_V=np.arange(vocabulary),
            token_totals_V=totals_V,
            token_counts_VLE=by_id_VLE,
            truncated_documents=0,
            block_documents_D=np.full(blocks, max(1, tokens // blocks // 500)),
        )
        return side, share_LE

    def sampled(share_LE: np.ndarray, name: str) -> TokenSample:
        document_N = np.arange(sample) // SAMPLED_LENGTH
        position_N = np.arange(sample) % SAMPLED_LENGTH
        token_N = rng.choice(vocabulary, sample, p=zipf_V)
        index_NLK = np.empty((sample, layers, top_k), dtype=np.int16)
        gate_NLK = np.empty((sample, layers, top_k), dtype=np.float16)
        for layer in range(layers):
            # An id's own experts, one slot in five another's: routing follows the token largely.
            noise_VE = rng.gumbel(size=(vocabulary, experts))
            own_VK = np.argsort(-(np.log(share_LE[layer]) + noise_VE), axis=1)[:, :top_k]
            other_NK = rng.integers(0, experts, (sample, top_k))
            swapped_NK = rng.random((sample, top_k)) < 0.2
            index_NLK[:, layer] = np.where(swapped_NK, other_NK, own_VK[token_N])
            gate_NK = rng.random((sample, top_k)) + 0.1
            gate_NLK[:, layer] = gate_NK / gate_NK.sum(axis=1, keepdims=True)
        return TokenSample(
            document_N=document_N.astype(np.int32),
            position_N=position_N.astype(np.int32),
            token_N=token_N.astype(np.int32),
            labelled_N=np.ones(sample, dtype=np.bool_),
            counted_N=position_N > 0,
            index_NLK=index_NLK,
            gate_NLK=gate_NLK,
            complete=False,
            document_ids=tuple(f"{name}-{n}" for n in range(int(document_N[-1]) + 1)),
        )

    (forget, share_forget), (retain, share_retain) = counts(), counts()
    sets = {
        side: {"name": side, "source": side, "fingerprint": side, "documents": part.documents}
        for side, part in (("forget", forget), ("retain", retain))
    }
    return Profile(
        meta={"model": {"source": "simulated"}, "settings": {}, "sets": sets},
        layers=tuple(range(layers)),
        num_experts_L=(experts,) * layers,
        experts_per_token_L=(top_k,) * layers,
        forget=forget,
        retain=retain,
        sample_forget=sampled(share_forget, "forget"),
        sample_retain=sampled(share_retain, "retain"),
        token_text={number: f" w{number}" for number in range(vocabulary)},
    )


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What `work` returns, its seconds on the clock, and its processor seconds."""
    clock, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - clock, time.process_time() - processor


def storage(profile: Profile, folder: Path, cells: int = 20) -> dict[str, Any]:
    """Bytes and seconds of saving and opening, and of `cells` random clicks on the opened one."""
    _, save, save_processor = timed(lambda: profile.save(folder))
    loaded, load, load_processor = timed(lambda: Profile.load(folder))
    rng = np.random.default_rng(1)
    clicks, cards = [], []
    for _ in range(cells):
        layer, expert = int(rng.integers(len(profile.layers))), 0
        expert = int(rng.integers(profile.num_experts_L[layer]))
        cell = (profile.layers[layer], expert)
        clicks.append(timed(lambda: contexts(loaded, cell, "forget", order="random"))[1:])  # noqa: B023
        cards.append(timed(lambda: expert_card(loaded, cell, bootstrap=1_000))[1:])  # noqa: B023
    return {
        "bytes": {path.name: path.stat().st_size for path in folder.iterdir()},
        "save_seconds": save,
        "save_processor_seconds": save_processor,
        "load_seconds": load,
        "load_processor_seconds": load_processor,
        "contexts_seconds_worst": max(click[0] for click in clicks),
        "contexts_processor_seconds_median": float(np.median([click[1] for click in clicks])),
        "card_seconds_worst": max(card[0] for card in cards),
        "card_processor_seconds_median": float(np.median([card[1] for card in cards])),
        "cells": cells,
    }


def map_page(folder: Path, repetitions: int = 5) -> dict[str, Any]:
    """Seconds of the routing map page's own work, for a profile that is open already."""
    from app import charts, findings, maps, state
    from trace_engine.config import Cell, SelectionConfig
    from trace_engine.routing import load_mismatch

    view = state.ProfileView("scale", folder, Profile.load(folder), load_mismatch(folder))

    def page(order: maps.Order) -> int:
        chosen = findings.selection(view, SelectionConfig())
        cells = () if chosen is None else tuple(chosen.cells)
        spec = maps.map_spec(view, order=order, current=Cell(0, 1), selected=cells)
        figure = charts.expert_map(spec)
        maps.screen_table(view)
        return len(figure.to_json())

    found: dict[str, Any] = {}
    for order in ("index", "cluster"):
        first = timed(lambda: page(order))  # noqa: B023
        later = [timed(lambda: page(order)) for _ in range(repetitions)]  # noqa: B023
        found[order] = {
            "first_processor_seconds": first[2],
            "seconds": [item[1] for item in later],
            "processor_seconds": float(np.median([item[2] for item in later])),
            "figure_bytes": first[0],
        }
    return found


def clicks(folder: Path, repetitions: int = 5) -> dict[str, Any]:
    """Seconds from a click on the map to the page that follows it, in headless Chromium."""
    from playwright.sync_api import Page

    from tests.support.server import CELL_SCRIPT, chromium, serve

    ready = '[data-testid="stApp"][data-test-script-state="notRunning"]'

    def measure(page: Page, address: str, cells: list[tuple[int, int]]) -> list[float]:
        page.goto(address)
        page.wait_for_function(DRAWN, timeout=300_000)
        page.wait_for_selector(ready, timeout=300_000)
        # A cold server runs a deep link twice, and the second run would swallow the first click.
        page.reload()
        page.wait_for_function(DRAWN, timeout=300_000)
        page.wait_for_selector(ready, timeout=300_000)
        taken = []
        for layer, expert in cells:
            x, y = page.evaluate(CELL_SCRIPT, [expert, layer])
            start = time.perf_counter()
            page.mouse.move(x, y)  # the map finds the cell under the pointer before it is pressed
            page.mouse.click(x, y)
            page.wait_for_function(FOCUSED, arg=[layer, expert], timeout=60_000)
            page.wait_for_selector(ready, timeout=60_000)
            taken.append(time.perf_counter() - start)
        return taken[1:]

    key = "5ca1e" * 8
    with TemporaryDirectory() as home, chromium() as browser:
        (Path(home) / "profiles").mkdir()
        (Path(home) / "profiles" / key).symlink_to(folder.absolute())
        with serve(Path(home)) as address:
            page = browser.new_page(viewport={"width": 1280, "height": 2000})
            cells = [(n % 4, (7 * n + 3) % 32) for n in range(repetitions + 1)]
            small = measure(page, f"{address}/routing_map", cells)
            large = measure(page, f"{address}/routing_map?profile={key}", cells)
    return {"bundled_seconds": small, "large_seconds": large}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=94)
    parser.add_argument("--experts", type=int, default=160)
    parser.add_argument("--tokens", type=int, default=10**9)
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    parser.add_argument("--sample", type=int, default=200_000)
    parser.add_argument("--browser", action="store_true", help="click in headless Chromium too")
    parser.add_argument("--folder", type=Path, help="keep the profile here")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)) / "profile"
        profile = simulate(
            arguments.layers,
            arguments.experts,
            tokens=arguments.tokens,
            blocks=arguments.blocks,
            sample=arguments.sample,
        )
        figures: dict[str, Any] = {"hardware": hardware(), **vars(arguments)}
        figures["storage"] = storage(profile, folder)
        mismatch(profile, permutations=99, bootstrap=100).save(folder)
        del profile
        figures["map_page"] = map_page(folder)
        if arguments.browser:
            figures["clicks"] = clicks(folder)
    print(json.dumps(figures | {"targets": TARGETS}, indent=1, default=str))


if __name__ == "__main__":
    main()
