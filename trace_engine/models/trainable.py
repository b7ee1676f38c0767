"""What may train: every parameter, chosen layers, the chosen experts' slices of fused tensors, or
LoRA adapters.

A fused expert tensor holds all experts of a layer, and an optimizer with momentum or weight decay
would move the ones that were not chosen. So the optimizer never sees it: small copies of the chosen
slices train, and are written back after each step. How backward comes to their gradients alone is
in `models.slices`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trace_engine.adapters import INSTEAD, NO_ADAPTERS
from trace_engine.config import Cell, TrainableConfig
from trace_engine.disk import saying_when_full
from trace_engine.errors import CalibrationError, InputError, ModelError, RunError
from trace_engine.models.info import OpenModel
from trace_engine.models.layers import decoder_layers, require_layer
from trace_engine.models.parts import attention_linears, fused_names, router_parameters
from trace_engine.models.site import Site
from trace_engine.models.sites import expert_parameters
from trace_engine.models.slices import Part, Slice, train_slices

Kind = Literal["all", "selected_experts", "layers", "lora", "top_experts"]


@dataclass(frozen=True, slots=True)
class TrainableSummary:
    """What a run will change, said before it runs."""

    kind: Kind
    parameters: int
    """Numbers that the optimizer moves."""
    total: int
    """Numbers in the model."""
    cells: tuple[Cell, ...]
    """The experts that alone train, sorted; empty for the kinds that are not limited to experts."""
    names: tuple[str, ...]
    """Trained tensors; a slice names its experts: `model.layers.0.mlp.experts.down_proj[3,7]`."""
    whole_gradients: tuple[str, ...] = ()
    """Sites whose experts' code does not work on chosen experts alone, so that each backward forms
    the gradients of whole tensors, one at a time: slower, with the same result."""


class Trainable(ABC):
    """The part of a model that trains, seen by the loop in the same way for every kind.

    Per update: backward (once or several times), `after_backward`, clip and step over
    `parameters()`, `after_step`. `close` leaves a plain transformers model with what was trained in
    its weights.
    """

    summary: TrainableSummary

    def __init__(self, opened: OpenModel) -> None:
        self._model = opened.model
        self._before = {n: p.requires_grad for n, p in opened.model.named_parameters()}
        self._total = sum(p.numel() for p in opened.model.parameters())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the trained tensors, in the order of `parameters()`."""
        return tuple(self._leaves())

    def parameters(self) -> list[nn.Parameter]:
        """What to hand to the optimizer, to gradient clipping, and to `zero_grad`."""
        return list(self._leaves().values())

    def tensors(self) -> dict[str, Tensor]:
        """The trained values by name, detached and not copied: all that a checkpoint needs."""
        return {name: leaf.detach() for name, leaf in self._leaves().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take values as `tensors` gave them. Raises RunError when names or shapes differ, before
        any change."""
        leaves = self._leaves()
        if set(tensors) != set(leaves):
            odd = sorted(set(tensors) ^ set(leaves))
            raise RunError(
                f"The saved weights belong to another trainable set: {odd[0]} is on one side only "
                f"({len(odd)} such tensors). The model was not changed."
            )
        for name, leaf in leaves.items():
            if tensors[name].shape != leaf.shape:
                raise RunError(
                    f"Saved tensor {name} has shape {tuple(tensors[name].shape)}, the model's has "
                    f"{tuple(leaf.shape)}. The model was not changed."
                )
        with torch.no_grad():
            for name, leaf in leaves.items():
                leaf.copy_(tensors[name])
        self.after_step()

    def after_backward(self) -> None:  # noqa: B027 - only some kinds have work here
        """Call after the backward passes of an update, before clipping."""

    def after_step(self) -> None:  # noqa: B027 - only some kinds have work here
        """Call after the optimizer's step: makes the model use the new values."""

    def plain_model(self) -> Any:
        """A transformers model with the trained values in its own weights, to save while training
        goes on.

        The model itself where nothing was added to it; a merged copy for LoRA.
        """
        return self._model

    def save_adapter(self, folder: Path) -> None:
        """Write what trained as an adapter that PEFT opens on the start model: safetensors and
        `adapter_config.json`. Raises RunError for every kind but LoRA."""
        raise RunError(
            f"trainable.kind is {self.summary.kind}, and only LoRA trains adapters that lie beside "
            "the model. Take the whole model."
        )

    def close(self) -> None:
        """End training: the model is plain again and keeps its trained values; gradients are
        cleared."""
        for name, parameter in self._model.named_parameters():
            parameter.grad = None
            parameter.requires_grad_(self._before.get(name, True))

    @abstractmethod
    def _leaves(self) -> dict[str, nn.Parameter]: ...

    def _freeze(self) -> None:
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)

    def _summarise(self, kind: Kind, cells: tuple[Cell, ...] = ()) -> TrainableSummary:
        count = sum(leaf.numel() for leaf in self._leaves().values())
        return TrainableSummary(kind, count, self._total, cells, self.names)


def make_trainable(
    opened: OpenModel, config: TrainableConfig, cells: Sequence[Cell] = (), *, seed: int = 0
) -> Trainable:
    """Prepare a model for training; everything outside the set is frozen.

    `cells` matter to `selected_experts`, to `top_experts` (the experts that train, with their
    layers' routers), and to `layers` without a list; `seed` fixes LoRA's first
    weights (the adapted model starts equal to the model whatever it is). Raises CalibrationError
    when nothing would train, InputError for a cell or a layer that the model does not have,
    ModelError where the model's parts cannot be told apart as the kind needs.
    """
    if opened.info.device == "spread":
        raise ModelError(
            f"{opened.info.source} is spread over several devices, and such a model can be "
            "profiled but not trained. Choose one device that holds it whole."
        )
    if config.kind in ("all", "layers"):
        return _Whole(opened, config, cells)
    if config.kind == "lora":
        return _Lora(opened, config, seed)
    if config.kind == "top_experts":
        return _SelectedExperts(opened, cells, "top_experts", routers=True)
    return _SelectedExperts(opened, cells)


class _Whole(Trainable):
    """Whole parameters: all of the model, or of chosen layers; with or without the routers."""

    def __init__(self, opened: OpenModel, config: TrainableConfig, cells: Sequence[Cell]) -> None:
        named = dict(opened.model.named_parameters())
        frozen = router_parameters(opened.sites) if config.freeze_routers else set()
        if config.kind == "layers":
            layers = config.layers or tuple({cell.layer for cell in cells})
            starts = layer_prefixes(opened, layers)
            inside = {name for name in named if name.startswith(starts)}
            frozen |= {parameter for name, parameter in named.items() if name not in inside}
        super().__init__(opened)
        for parameter in named.values():
            if parameter in frozen:
                parameter.requires_grad_(False)
            elif parameter.is_floating_point():
                parameter.requires_grad_(True)
        self._parameters = {name: p for name, p in named.items() if p.requires_grad}
        self.summary = self._summarise("all" if config.kind == "all" else "layers")

    def _leaves(self) -> dict[str, nn.Parameter]:
        return self._parameters


def layer_prefixes(opened: OpenModel, layers: Sequence[int]) -> tuple[str, ...]:
    """What the parameters of decoder layers start with: `model.layers.3.`, sorted by layer.

    Dense layers count too. Raises CalibrationError for no layer, InputError for one that the model
    does not have.
    """
    if not layers:
        raise CalibrationError(
            "No layer is named and no expert is selected, so nothing would train. Name layers, or "
            "train all parameters."
        )
    found = decoder_layers(opened)
    for layer in layers:
        require_layer(found, layer)
    return tuple(f"{found[layer]}." for layer in sorted(set(layers)))


class _SelectedExperts(Trainable):
    """Slices of fused tensors, alone or with the routers that choose them."""

    def __init__(
        self,
        opened: OpenModel,
        cells: Sequence[Cell],
        kind: Kind = "selected_experts",
        *,
        routers: bool = False,
    ) -> None:
        chosen = check_cells(opened.sites, cells)
        if not chosen:
            raise CalibrationError(
                "No expert is selected, so nothing would train. Select at least one expert, or "
                "train all "
                "parameters."
            )
        super().__init__(opened)
        self._slices: dict[str, Slice] = {}
        found = [(site, expert_parameters(site)) for site in opened.sites if site.layer in chosen]
        for site, tensors in found:
            if not tensors:
                raise ModelError(
                    f"{site.name}: its experts are not stored along the first dimension of a "
                    "tensor, so "
                    "single experts cannot train. Train all parameters instead."
                )
        choosing = router_parameters([site for site, _ in found]) if routers else set()
        self._freeze()
        self._routers = {n: p for n, p in opened.model.named_parameters() if p in choosing}
        for parameter in self._routers.values():
            parameter.requires_grad_(True)
        for site, tensors in found:
            for name, (whole, rows_per_expert) in tensors.items():
                self._add(name, whole, chosen[site.layer], rows_per_expert)
        parts = [part for site, _ in found for part in self._parts(site, chosen[site.layer])]
        self._handles: list[RemovableHandle]
        self._handles, whole_gradients = train_slices(opened.model, parts)
        every = tuple(Cell(layer, e) for layer in sorted(chosen) for e in chosen[layer])
        self.summary = replace(self._summarise(kind, every), whole_gradients=tuple(whole_gradients))

    def after_step(self) -> None:
        for piece in self._slices.values():
            piece.write_back()

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for piece in self._slices.values():
            piece.leaf.grad = None
        super().close()

    def _leaves(self) -> dict[str, nn.Parameter]:
        return {name: piece.leaf for name, piece in self._slices.items()} | self._routers

    def _add(self, name: str, whole: nn.Parameter, experts: list[int], per_expert: int) -> None:
        rows = torch.tensor(
            [row for e in experts for row in range(e * per_expert, (e + 1) * per_expert)],
            device=whole.device,
        )
        leaf = nn.Parameter(whole.detach().index_select(0, rows))
        self._slices[f"{name}[{','.join(map(str, experts))}]"] = Slice(whole, rows, leaf)

    def _parts(self, site: Site, experts: list[int]) -> Iterator[Part]:
        for module in site.experts.values():
            inside = set(module.parameters())
            slices = tuple(piece for piece in self._slices.values() if piece.whole in inside)
            if slices:
                numbers_S = torch.tensor(experts, device=slices[0].whole.device)
                yield Part(site, module, numbers_S, slices)


class _Lora(Trainable):
    def __init__(self, opened: OpenModel, config: TrainableConfig, seed: int) -> None:
        from peft import LoraConfig, LoraModel

        super().__init__(opened)
        for site in opened.sites:
            if not fused_names(site):
                raise ModelError(f"{site.name}: {NO_ADAPTERS}. {INSTEAD}")
        options: dict[str, Any] = {"lora_alpha": config.lora_alpha}  # PEFT's annotation says int
        settings = LoraConfig(
            r=config.lora_rank,
            lora_dropout=0.0,
            target_modules=attention_linears(opened.model),
            target_parameters=[name for site in opened.sites for name in fused_names(site)],
            **options,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                self._tuner: Any = LoraModel(opened.model, settings, "default")
            except (ValueError, TypeError, RuntimeError, AttributeError) as error:
                raise ModelError(
                    f"PEFT cannot put LoRA adapters on {type(opened.model).__name__} "
                    f"({str(error).splitlines()[0].rstrip('.')}). "
                    f"{INSTEAD}"
                ) from None
        self._freeze()
        self._parameters = {}
        for name, parameter in opened.model.named_parameters():
            if ".lora_" in name:
                parameter.requires_grad_(True)
                self._parameters[name] = parameter
        self.summary = self._summarise("lora")

    def plain_model(self) -> Any:
        return copy.deepcopy(self._tuner).merge_and_unload()

    def save_adapter(self, folder: Path) -> None:
        from safetensors.torch import save_file

        settings = copy.deepcopy(self._tuner.peft_config["default"])
        settings.task_type, settings.inference_mode = "CAUSAL_LM", True
        # PEFT's names in a file: the model under `base_model.model`, the adapter's name left out.
        tensors = {
            f"base_model.model.{name.replace('.default.', '.')}": value.cpu().contiguous()
            for name, value in self.tensors().items()
        }
        with saying_when_full(folder, sum(t.numel() * t.element_size() for t in tensors.values())):
            settings.save_pretrained(folder)
            save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})

    def close(self) -> None:
        self._tuner.merge_and_unload()
        super().close()

    def _leaves(self) -> dict[str, nn.Parameter]:
        return self._parameters


def check_cells(sites: Sequence[Site], cells: Sequence[Cell]) -> dict[int, list[int]]:
    """The cells as layer -> sorted experts, repeats dropped. Raises InputError naming what there
    is."""
    experts_of = {site.layer: site.num_experts for site in sites}
    chosen: dict[int, set[int]] = defaultdict(set)
    for layer, expert in cells:
        if layer not in experts_of:
            raise InputError(
                f"The model has no routed experts in layer {layer}. Its MoE layers are "
                f"{', '.join(map(str, sorted(experts_of)))}."
            )
        if not 0 <= expert < experts_of[layer]:
            raise InputError(
                f"Layer {layer} has no expert {expert}: its experts are 0 to "
                f"{experts_of[layer] - 1}."
            )
        chosen[layer].add(expert)
    return {layer: sorted(experts) for layer, experts in chosen.items()}
