"""The unlearning methods on offer, as facts: names, parameters with defaults and sources, needs.

Apart from their arithmetic (`unlearning.terms`), so that settings and pages know them without
torch. Accepted cost: a new method is two entries, one here and one there; a test holds them
together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

MethodName = Literal[
    "npo", "simnpo", "graddiff", "ga", "wga", "satimp", "undial", "rmu", "ceu", "dpo", "idkdpo"
]
RetainTerm = Literal["nll", "kl", "hidden"]


@dataclass(frozen=True, slots=True)
class Method:
    """One unlearning method: what it is called, what can be set, what it needs of the start
    model."""

    title: str
    line: str
    """What its forget term does, in one sentence."""
    source: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    """Settings that only some methods have, with this method's defaults."""
    gamma: float = 1.0
    """Default weight of the forget term."""
    retains: bool = True
    """Whether there is a retain term."""
    reference_nll: bool = False
    """Whether it compares with each document's NLL under the start model, measured once."""
    start_logits: bool = False
    """Whether every step needs the start model's predictions too, hence a second copy of it."""
    retain_term: RetainTerm = "nll"
    """Default of what is kept on the retain set."""
    logits: bool = False
    """Whether it reads the model's whole predictions, and not only the labels' losses."""
    pairs: bool = False
    """Whether every forget document must be an answer to a prompt."""
    preferred: Literal["", "set", "unknown"] = ""
    """Whether an answer is to be preferred to each: the set's own, or a bundled "I don't know"."""
    least_labels: int = 1
    """Tokens to predict that a document must have for its loss to see any."""
    steers: bool = False
    """Whether it moves a decoder layer's hidden states, and no prediction."""


METHODS: dict[MethodName, Method] = {
    "npo": Method(
        "NPO: negative preference optimisation",
        "Lowers each document's likelihood relative to the start model's, and fades once the "
        "document has become unlikely.",
        "Zhang, Lin, Bai and Mei, Negative Preference Optimization, 2024, eq. 3",
        {"beta": 0.1},
        reference_nll=True,
    ),
    "simnpo": Method(
        "SimNPO: NPO without a reference",
        "As NPO, on the mean loss per token and without the start model, so that long and short "
        "documents fade alike.",
        "Fan et al., Simplicity Prevails: Rethinking Negative Preference Optimization, 2024; "
        "defaults of OpenUnlearning",
        {"beta": 4.5, "delta": 0.0},
        gamma=0.125,
    ),
    "graddiff": Method(
        "GradDiff: gradient difference",
        "Raises the mean loss of the forget tokens without bound, against the retain term.",
        "Liu, Liu and Stone, Continual Learning and Private Unlearning, 2022",
    ),
    "ga": Method(
        "GA: gradient ascent",
        "Raises the mean loss of the forget tokens, and retains nothing: a lower bound on utility.",
        "Jang et al., Knowledge Unlearning for Mitigating Privacy Risks, 2023",
        retains=False,
    ),
    "wga": Method(
        "WGA: weighted gradient ascent",
        "Gradient ascent in which a forget token counts by its probability, so that tokens that "
        "are forgotten stop counting.",
        "Wang et al., Rethinking LLM Unlearning Objectives, 2025; β as in OpenUnlearning",
        {"beta": 1.0},
    ),
    "satimp": Method(
        "SatImp: saturation and importance",
        "Gradient ascent in which a forget token counts by p^β₁·(1 − p)^β₂: neither tokens that "
        "are forgotten nor those that are certain dominate.",
        "Yang et al., Exploring Criteria of Loss Reweighting to Enhance LLM Unlearning, 2025; β₁ "
        "and β₂ as in OpenUnlearning, whose γ is 0.1",
        {"beta1": 5.0, "beta2": 1.0},
    ),
    "undial": Method(
        "UNDIAL: self-distillation with adjusted logits",
        "Teaches the model its own start predictions with the true token's logit lowered by β: "
        "unlike gradient ascent, the loss has a minimum.",
        "Dong et al., UNDIAL: Self-Distillation with Adjusted Logits, 2024; β as in "
        "OpenUnlearning, which runs it without a retain term",
        {"beta": 10.0},
        logits=True,
        start_logits=True,
    ),
    "rmu": Method(
        "RMU: representation misdirection",
        "Drives the hidden states that one decoder layer gives on forget text to one random "
        "direction, and holds those on retain text where the start model has them.",
        "Li et al., The WMDP Benchmark, 2024, section 4; the mask is OpenUnlearning's",
        {"steering": 20.0},
        retain_term="hidden",
        steers=True,
    ),
    "ceu": Method(
        "CE-U: cross-entropy unlearning",
        "Teaches the model its own predictions of an answer without the true token, so that its "
        "gradient neither vanishes at sure tokens nor explodes at forgotten ones. The answer's "
        "first token is left out.",
        "Yang, CE-U: Cross Entropy Unlearning, 2025",
        logits=True,
        pairs=True,
        least_labels=2,
    ),
    "dpo": Method(
        "DPO: direct preference optimisation",
        "Makes a preferred answer, which the set gives, likelier than the true one, relative to "
        "the start model.",
        "Rafailov et al., Direct Preference Optimization, 2023, eq. 7; as a forget term, scaled by "
        "2/β as NPO is, in OpenUnlearning",
        {"beta": 0.1},
        reference_nll=True,
        pairs=True,
        preferred="set",
    ),
    "idkdpo": Method(
        'IdkDPO: DPO towards "I don\'t know"',
        "As DPO, where the preferred answer is one of a dozen ways to say that nothing is known, "
        "drawn for each document with the seed.",
        "as DPO; to prefer such answers is from Maini et al., TOFU: A Task of Fictitious "
        "Unlearning for LLMs, 2024",
        {"beta": 0.1},
        reference_nll=True,
        pairs=True,
        preferred="unknown",
    ),
}

RETAIN_TERMS: dict[RetainTerm, str] = {
    "nll": "NLL: the loss on the retain text itself",
    "kl": "KL: the start model's predictions",
    "hidden": "hidden states: the start model's, of the last layer or of RMU's",
}
PARAMETERS = tuple(dict.fromkeys(name for method in METHODS.values() for name in method.parameters))
"""Settings that only some methods have."""
LEGACY_BETA = 0.1
"""What `beta` held in every run, used or not, before methods had defaults of their own."""


def needs_start_model(method: MethodName, term: RetainTerm) -> bool:
    """Whether a run keeps a second, frozen copy of the start model beside the trained one."""
    chosen = METHODS[method]
    return chosen.start_logits or (chosen.retains and term != "nll")
