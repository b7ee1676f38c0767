"""Which cells a model has: its MoE layers and their numbers of experts, known before any counting.

A choice of layers or experts can be refused by it while refusing still costs nothing.
"""

from dataclasses import dataclass

from trace_engine.errors import InputError


@dataclass(frozen=True, slots=True)
class Layout:
    """The rows and columns of every map."""

    layers: tuple[int, ...]
    """True decoder layer numbers of the MoE sites."""
    num_experts_L: tuple[int, ...]

    def site_of(self, layer: int) -> int:
        """Row of a decoder layer in every (L, ...) array; InputError names the layers there are."""
        if layer in self.layers:
            return self.layers.index(layer)
        known = ", ".join(str(number) for number in self.layers)
        raise InputError(f"Layer {layer} has no routed experts in this model. MoE layers: {known}.")

    def check_cell(self, layer: int, expert: int) -> int:
        """Row of the cell's layer; raises InputError when layer or expert does not exist."""
        row = self.site_of(layer)
        if not 0 <= expert < self.num_experts_L[row]:
            raise InputError(
                f"Layer {layer} has experts 0 to {self.num_experts_L[row] - 1}; found {expert}."
            )
        return row
