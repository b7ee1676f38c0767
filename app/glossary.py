"""The one place where the project's words are defined; the app shows it, docs/glossary.md prints
it.

The document is generated (`python -m app.glossary > docs/glossary.md`) and a test compares the two,
so a definition can never differ between the page and the docs. Accepted trade-off: plain text only,
no formulas beyond what a line of Unicode can hold.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Term:
    name: str
    definition: str
    """One or two sentences, readable without the rest of the glossary."""
    pages: tuple[str, ...] = ()
    """Pages on which the word decides what one sees."""


TERMS: tuple[Term, ...] = (
    Term(
        "ablation",
        "Taking experts out of a model for a while and asking the same questions again. Drop "
        "leaves the routers alone and takes the experts' output away; re-route lets the next best "
        "take over. What gets worse hung on them; what does not may have a stand-in.",
        ("causal",),
    ),
    Term(
        "activation frequency",
        "Share of the counted tokens of a set that the router sends to an expert. Over one "
        "layer's experts it sums to K, so uniform routing gives K/E. Also called domain "
        "specialization (OLMoE).",
        ("start", "routing_map", "expert", "selection"),
    ),
    Term(
        "attribution map",
        "What hangs on each expert: how much more the right answers' loss rises on forget "
        "questions than on all others when that expert alone is taken out.",
        ("causal",),
    ),
    Term(
        "audit",
        "One model, one body of knowledge, and a report that another person can check: what the "
        "model answers plainly, in other words and under attack, what hangs on which experts, "
        "and what was not tested.",
        ("audit",),
    ),
    Term(
        "best evaluation",
        "Which state of the model a run may save: among the evaluations whose forget accuracy is "
        "at most a threshold, the one with the largest utility; if there is none, the one that "
        "forgot most. Chosen on the run's own questions, it looks better there than it is.",
        ("unlearn",),
    ),
    Term(
        "calibration",
        "Here: choosing forget-critical experts and weighting retain tokens so that each chosen "
        "expert is used on the retain side about as often as on the forget side.",
        ("selection",),
    ),
    Term(
        "cell",
        "One expert of one MoE layer: one square of a map. The layer is the model's true decoder "
        "layer number.",
        ("start", "routing_map", "selection"),
    ),
    Term(
        "chance",
        "The score of guessing: 0.25 for four choices. A forget accuracy at chance says that the "
        "questions are no longer answered, not that the knowledge is gone.",
        ("unlearn", "compare"),
    ),
    Term(
        "confidence interval (CI)",
        "Range that would hold the true value in 95 of 100 repetitions. Documents, not tokens, "
        "are resampled, because tokens of one document are alike.",
        ("routing_map", "expert", "unlearn", "compare"),
    ),
    Term(
        "control (of the method)",
        "A run in which something plainer stands in TRACE's place while all else stays the same: "
        "uniform weights at the norm of the weighted retain gradient, as many random experts in "
        "the same layers, or the weights shuffled over each batch. What a control reaches too is "
        "not due to the method.",
        ("unlearn", "compare"),
    ),
    Term(
        "cross-entropy unlearning (CE-U)",
        "Forget loss: cross-entropy against the model's own predictions of an answer with the true "
        "token taken out. Its gradient stays bounded, and is there where the model is sure.",
        ("unlearn",),
    ),
    Term(
        "difference map",
        "Forget-side minus retain-side activation frequency for every cell, on one scale "
        "symmetric about 0.",
        ("start", "routing_map", "selection"),
    ),
    Term(
        "direct preference optimisation (DPO, IdkDPO)",
        "Forget loss that makes a preferred answer likelier than the true one, relative to the "
        "start model: the set's own, or for IdkDPO a bundled \"I don't know\". It needs prompts "
        "with answers.",
        ("unlearn",),
    ),
    Term(
        "drift",
        "How far routing moved during unlearning: per layer, the share of a token's K experts "
        "that are still the same as before. High accuracy loss with low overlap may be re-routing"
        " instead of erasing.",
        ("unlearn", "compare"),
    ),
    Term(
        "early stop",
        "A run ends before its last step once an evaluation reaches a stated forget accuracy, or "
        "finds utility below a stated floor; without questions the same with held-out losses.",
        ("unlearn",),
    ),
    Term(
        "effective sample size (ESS)",
        "(Σw)²/Σw²: how many equally weighted tokens would carry the same information as the "
        "weighted ones. ESS/N of 0.5 means that half of the retain data is, in effect, thrown "
        "away.",
        ("selection",),
    ),
    Term(
        "exact (weighting rule)",
        "Weights exp(Σ λ·a) that meet every selected expert's target frequency at once while "
        "staying as close to uniform as possible (entropy balancing, raking).",
        ("selection",),
    ),
    Term(
        "exact memorisation",
        "Share of a text's tokens that are the model's likeliest, given the true text before them.",
    ),
    Term(
        "excess",
        "Share of the forget questions that a model answers beyond its yardstick: a reference "
        "under the same treatment (asked plainly beside other routing), or without one guessing, "
        "or the model itself before the attack. Every finding of an audit rests on it.",
        ("audit",),
    ),
    Term(
        "expert",
        "One of the E small feed-forward networks of an MoE layer. Each token uses only K of them.",
        ("start", "routing_map", "expert"),
    ),
    Term(
        "expert-forcing",
        "Forbidding, in an unlearned model, the experts that now serve the forget questions. If "
        "the answers come back, the knowledge was routed around, not erased.",
        ("causal",),
    ),
    Term(
        "extraction strength",
        "One minus the share of a text that must be given before greedy decoding writes all "
        "the rest. 1: the text comes without a beginning; 0: even its last token does not.",
    ),
    Term(
        "finding",
        "What an audit may claim, by rules that stand in its settings: holds the knowledge; "
        "suppressed or re-routed; returns under attack; still holds part of it; does not hold it, "
        "as far as was tested; undecided.",
        ("audit",),
    ),
    Term(
        "forget quality",
        "TOFU: p-value of a test whether the model's truth ratios differ from those of a "
        "model trained again without the forget set. Near 1: not to be told apart; near 0: it"
        " can be.",
    ),
    Term(
        "forget set",
        "Documents that hold what the model should lose.",
        ("start", "data_model", "unlearn"),
    ),
    Term(
        "forget-critical expert",
        "An expert that forget tokens use far more than retain tokens do. Activation evidence "
        "alone does not show that it holds the knowledge; that takes an ablation.",
        ("selection", "expert"),
    ),
    Term(
        "gate weight",
        "The router's weight for a chosen expert's output; gate mass is its mean over tokens, 0 "
        "where not chosen.",
        ("expert",),
    ),
    Term(
        "gradient ascent (GA)",
        "Forget loss: raise the cross-entropy on forget tokens, and retain nothing. There is no "
        "retain loss, so no token weights either.",
        ("unlearn",),
    ),
    Term(
        "gradient difference (GradDiff)",
        "Forget loss: raise the cross-entropy on forget tokens, lower it on retain tokens.",
        ("unlearn",),
    ),
    Term(
        "hardness (κ)",
        "How far the retain frequency is moved towards the forget-side one: 0 changes nothing, 1 "
        "moves it all the way. Auto takes the largest κ whose effective sample size stays above "
        "the floor.",
        ("selection",),
    ),
    Term(
        "held-out loss",
        "Mean negative log-likelihood per token on documents that training did not see; used when"
        " a set has no questions.",
        ("unlearn", "compare"),
    ),
    Term(
        "hidden-state probe",
        "A linear map, trained on some forget questions, from the state after a question to its "
        "answer. If it finds the answers of others too, the state still points to them, "
        "whatever the model says.",
        ("causal", "audit"),
    ),
    Term(
        "jailbreak-style prefix",
        "A sentence before a question that asks a model to answer all the same: a role, an "
        "exam, an order to ignore earlier orders. Answers that come back were withheld, not "
        "forgotten.",
        ("audit",),
    ),
    Term(
        "knowledge check",
        "Before a run: does the model know the forget set at all? If it does not, there is "
        "nothing to forget, and the curves would show nothing.",
        ("unlearn",),
    ),
    Term(
        "KnowMem",
        "MUSE: how well greedy answers to questions about a set match the true ones (ROUGE-L F1).",
    ),
    Term(
        "manifest",
        "The list of an audit's files with the SHA-256 of each. Its own hash, kept elsewhere, "
        "shows later whether anything was changed.",
        ("audit",),
    ),
    Term(
        "membership attack",
        "Scores documents by how trained on they look. Its AUC is the probability that a "
        "forget document looks more so than one that was never trained on: 0.5 tells nothing "
        "apart.",
    ),
    Term(
        "micro-batch",
        "The documents that are in memory at once. A step adds up the gradients of its "
        "micro-batches (gradient accumulation), which costs time and changes memory, not the step.",
        ("unlearn",),
    ),
    Term(
        "mixed precision",
        "The products of a training forward run in bfloat16 while weights, gradients and losses "
        "keep their precision: faster where the processor has it, and nearly the same curve.",
        ("unlearn",),
    ),
    Term(
        "mixture of experts (MoE)",
        "A transformer whose feed-forward layers are split into experts, with a router that picks"
        " K per token.",
        ("start",),
    ),
    Term(
        "model card",
        "The page that goes along with a model: what was unlearned, how, what was measured with "
        "which uncertainty, and what was not tested.",
        ("unlearn",),
    ),
    Term(
        "model utility",
        "TOFU: harmonic mean of probability, ROUGE-L recall and truth ratio on retained "
        "authors, real authors and world facts. One that is near 0 pulls the whole down.",
    ),
    Term(
        "negative preference optimisation (NPO)",
        "Forget loss −(2/β)·log σ(−β·(log p − log p_ref)) per sequence: like gradient ascent, but"
        " it fades once the text has become unlikely.",
        ("unlearn",),
    ),
    Term(
        "Pareto front",
        "The runs that no other run beats on both axes: none forgets more while keeping more "
        "utility.",
        ("compare",),
    ),
    Term(
        "PrivLeak",
        "MUSE: how far a membership AUC is from that of the retrained reference, in percent "
        "of it. 0: as after retraining; −100: every forget document is still told; far above "
        "0: the model avoids them, which tells as well.",
    ),
    Term(
        "profile",
        "What is counted once for a model and two sets: how often each document's tokens are "
        "routed to every expert. Maps, selections and weights are computed from it.",
        ("data_model", "routing_map"),
    ),
    Term(
        "quantisation (as an attack)",
        "Rounding an unlearned model's weights to few bits, as a cheaper deployment would. A "
        "change too small for the grid is rounded away, and what it suppressed comes back.",
        ("audit",),
    ),
    Term(
        "random experts of equal load",
        "What taking out any busy experts does: as many random experts in each layer, through "
        "which as large a share of the routed slots passes.",
        ("causal",),
    ),
    Term(
        "random-split null",
        "The same map for two random halves of all documents together. What shows up there is "
        "sampling noise.",
        ("routing_map",),
    ),
    Term(
        "recovery",
        "As an attack: training a model on retained text alone and asking about the forget set. It "
        "mends a model that was damaged as a whole, and tells it nothing; what it then answers "
        "beyond a reference that was trained alike was in its weights.",
        ("audit",),
    ),
    Term(
        "relearning",
        "Training an unlearned model briefly on a part of the forget set and asking about the "
        "rest. What comes back faster than in a retrained reference was never gone.",
        ("audit", "compare"),
    ),
    Term(
        "representation misdirection (RMU)",
        "Forget loss: mean squared difference between the hidden states that one decoder layer "
        "gives on forget text and c times a random direction. It works on no prediction; the "
        "layer's states on retain text are held where the start model has them.",
        ("unlearn",),
    ),
    Term(
        "retain set",
        "Documents that stand for what the model should keep; training lowers the loss on them.",
        ("start", "data_model", "unlearn"),
    ),
    Term(
        "retain term",
        "What training keeps on the retain set: the text's own loss (NLL), the start model's "
        "predictions (KL divergence), or the start model's last hidden states (mean squared "
        "difference). Token weights act on each of them alike.",
        ("unlearn",),
    ),
    Term(
        "retrained reference",
        "A model trained from scratch without the forget data: what perfect forgetting would look"
        " like.",
        ("compare",),
    ),
    Term(
        "rise",
        "How much of an excess an attack added: the audited model's change less the reference's, "
        "question by question. Knowledge returns only where there is one, corrected for how many "
        "tests there are.",
        ("audit",),
    ),
    Term(
        "router",
        "The small linear layer that scores the experts for a token and keeps the best K.",
        ("start", "routing_map", "expert"),
    ),
    Term(
        "router-restore",
        "Putting the old routers into an unlearned model. Forget accuracy that returns was lost in "
        "the routers, not in the experts.",
        ("causal",),
    ),
    Term(
        "routing mismatch",
        "Forget data uses some experts far more than retain data does. During unlearning those "
        "experts get much forgetting gradient and little retaining gradient: they are "
        "under-regularised.",
        ("start", "routing_map", "selection"),
    ),
    Term(
        "saturation and importance (SatImp)",
        "Gradient ascent in which a forget token of probability p counts by p^β₁·(1 − p)^β₂.",
        ("unlearn",),
    ),
    Term(
        "selected-expert unlearning (SEUF)",
        "Any forget loss on the one expert that forget text uses most and its layer's router, with "
        "a router anchor: a loss that holds forget tokens at that expert, so that the router does "
        "not learn to go round it.",
        ("unlearn",),
    ),
    Term(
        "shared expert",
        "An expert that every token uses; the router does not choose it, so it can never be "
        "selected here.",
        ("selection",),
    ),
    Term(
        "simple NPO (SimNPO)",
        "NPO without a reference model: −(2/β)·log σ(β·(loss per token − δ)) per sequence.",
        ("unlearn",),
    ),
    Term(
        "suppressed",
        "Not answered, and still in the weights: a test that puts no knowledge back (old "
        "routers, other words, fewer bits, routers trained alone) brings up at least half of "
        "what there was.",
        ("audit",),
    ),
    Term(
        "sweep",
        "A small grid of settings, made as ordinary runs, one point each on the plane of "
        "forgetting and utility. Its best point is chosen on the questions it is drawn with, and "
        "looks a little better than it is.",
        ("unlearn",),
    ),
    Term(
        "token-matched control",
        "The retain set re-drawn so that its tokens occur as often as in the forget set. What "
        "remains of a gap is not explained by which words occur.",
        ("routing_map", "expert"),
    ),
    Term(
        "top-k",
        "In this app: the number of selected experts. The router's own K is called experts per "
        "token.",
        ("selection",),
    ),
    Term(
        "truth ratio",
        "TOFU: how likely false answers are against the reworded true one. Below 1 the model "
        "prefers the truth.",
    ),
    Term(
        "uncoverable expert",
        "A selected expert that no retain token uses. No weighting can raise a frequency of 0, so"
        " it stays under-regularised, and the page says so.",
        ("selection",),
    ),
    Term(
        "UNDIAL",
        "Forget loss: cross-entropy against the start model's own predictions with the true "
        "token's logit lowered by β (self-distillation with adjusted logits).",
        ("unlearn",),
    ),
    Term(
        "utility",
        "What the model must keep: accuracy on questions of every group that is not to be "
        "forgotten.",
        ("unlearn", "compare"),
    ),
    Term(
        "VerbMem",
        "MUSE: how well the model's greedy continuation of a forget passage matches what "
        "follows there (ROUGE-L F1).",
    ),
    Term(
        "warm-up",
        "The first steps of a run, in which the learning rate rises to its value.",
        ("unlearn",),
    ),
    Term(
        "weighted gradient ascent (WGA)",
        "Gradient ascent in which a forget token of probability p counts by p^β, so that tokens "
        "that are forgotten stop counting.",
        ("unlearn",),
    ),
)


def terms_for(page: str) -> tuple[Term, ...]:
    """The terms that matter on one page, in alphabetical order."""
    return tuple(term for term in TERMS if page in term.pages)


def to_markdown() -> str:
    """The glossary as docs/glossary.md holds it, ending in one newline."""
    lines = [
        "# Glossary",
        "",
        "One definition per word, the same on every page of the app.",
        "Generated: `python -m app.glossary > docs/glossary.md`.",
        "",
    ]
    for term in TERMS:
        lines.append(f"- **{term.name}**: {term.definition}")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    print(to_markdown(), end="")
