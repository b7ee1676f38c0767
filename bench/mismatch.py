"""How far the forget set's routing lies from that of each retain set of a table's file.

`python -m bench.mismatch [bench/when/facts.yaml]` profiles the start model on the forget set beside
each retain set, and prints the gap of the selected experts: the share of forget tokens that an
expert serves minus that of retain tokens, mean over the cells that the default selection takes.
"""

import sys
from pathlib import Path

import numpy as np

from trace_engine.benchmark import BenchConfig, read_bench
from trace_engine.calibration import select_experts
from trace_engine.config import ModelConfig, ProfileConfig, SelectionConfig, SetConfig
from trace_engine.models import open_model
from trace_engine.routing import profile
from trace_engine.sets import DocumentSet, load_set

DEFAULT = Path(__file__).parent / "when" / "facts.yaml"


def gaps(config: BenchConfig) -> dict[str, tuple[int, float]]:
    """By retain set: its documents, and the mean gap of the selected experts."""
    model = ModelConfig.model_validate(config.settings["model"])
    forget = SetConfig.model_validate(config.settings["forget"])
    opened, forgotten = open_model(model), load_set(forget)
    found = {}
    for name, retain in config.retain.items():
        documents = [d for part in retain.parts for d in load_set(part).documents]
        settings = ProfileConfig(model=model, forget=forget, retain=retain.parts[0])
        measured = profile(opened, forgotten, DocumentSet.of(name, name, documents), settings)
        share_LE = {
            side: measured.counts(side).counts_DLE.sum(axis=0) / measured.counts(side).tokens
            for side in ("forget", "retain")
        }
        gap_LE = share_LE["forget"] - share_LE["retain"]
        cells = select_experts(measured, SelectionConfig()).cells
        gap = np.mean([gap_LE[measured.site_of(c.layer), c.expert] for c in cells])
        found[name] = len(documents), float(gap)
    return found


def main() -> int:
    config = read_bench(sys.argv[1] if len(sys.argv) > 1 else DEFAULT)
    for name, (documents, gap) in gaps(config).items():
        print(f"{name}: {documents:,} documents, gap of the selected experts {gap:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
