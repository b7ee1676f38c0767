"""What teaching mode says on each page: what you see, what to try, why; the tour; the traps' texts.

Plain data, so that a test can hold every page to having a lesson, and wording stays in one place.
Accepted trade-off: the texts speak of the bundled example; with one's own sets the numbers differ,
the questions do not.
"""

from dataclasses import dataclass

from app.wording import NINETY_FIVE


@dataclass(frozen=True, slots=True)
class Lesson:
    """Three short texts about one page."""

    see: str
    try_this: str
    why: str


@dataclass(frozen=True, slots=True)
class Stop:
    """One step of the tour."""

    page: str
    title: str
    task: str
    look_for: str


LESSONS: dict[str, Lesson] = {
    "start": Lesson(
        see="Every square is one expert of one layer. Orange: forget text uses it more than "
        "retain text does; blue: less; pale: about equally. A dot says that the gap survives a "
        "test over all squares.",
        try_this="Before you look closer, open Predict and guess where the largest gap is. Then "
        "click the strongest square and read the words that go there.",
        why="Unlearning pushes hardest on the experts that the forget text uses. If retain text "
        "hardly uses them, nothing holds them in place: that is the mismatch this method repairs.",
    ),
    "data_model": Lesson(
        see="The two sets that are compared and the model that is measured, with counts and "
        "overlap.",
        try_this="Take the preset retain_facts, text in the style of the forget set, as retain "
        "set and profile again. Does the map become paler?",
        why="A gap is always between two sets. Part of it may be style, length or vocabulary "
        "rather than the knowledge; choosing the retain set is choosing the question.",
    ),
    "routing_map": Lesson(
        see="Every expert of every layer: forget and retain share on one locked scale, and their "
        "difference. Shares of a layer sum to the number of experts per token.",
        try_this="Sort by gap, then set Control to Random split: how large are gaps that mean "
        "nothing?",
        why="A map without its noise level invites stories. Null and token-matched control ship "
        "with every map for that reason.",
    ),
    "expert": Lesson(
        see="One expert: its shares with an interval, the tokens it gets beyond expectation, and "
        "tokens in context, coloured by gate weight.",
        try_this="Is it a topic or a token? Compare the forget gap with the token-matched one.",
        why="Routing follows token identity to a large part. Use is not storage: only an ablation "
        "shows what an expert does.",
    ),
    "selection": Lesson(
        see="The outlined squares are calibrated. Each dumbbell is one expert: where retain use "
        "is, where the weights bring it, and where the forget side is.",
        try_this="Move top-k from 1 to 6 and watch the effective sample size. Then set κ to 1 by "
        "hand: what is the largest weight?",
        why="Matching frequencies costs data: the few retain tokens that use an expert get loud, "
        "the rest silent. The effective sample size is the price, and auto stops before it is "
        "ruinous.",
    ),
    "unlearn": Lesson(
        see="A run draws two kinds of curve: forget accuracy should fall to chance, utility "
        "should stay. "
        f"Bands are {NINETY_FIVE} intervals; the dotted line is guessing.",
        try_this="Predict what utility does before you replay the bundled run. Then run it "
        "unweighted (rule: uniform) with the same seed and compare.",
        why="Forgetting is easy: any large step forgets everything. The question is what else is "
        "lost, and that takes questions that the retain set does not contain.",
    ),
    "causal": Lesson(
        "The same questions with an expert taken out: where the answers get worse, something hangs "
        "on it. Beside it the activation map of the same model.",
        "Find an expert with a large gap and no effect, and one with an effect and no gap.",
        "Activation is correlation. Taking something out is an experiment; but experts stand in "
        "for each other, so no effect does not mean that nothing is there.",
    ),
    "compare": Lesson(
        see="Left is more forgotten, up is better kept. "
        f"Bars are {NINETY_FIVE} intervals; the cross is a model that never saw the forget data.",
        try_this="Find two runs whose bars overlap on both axes. Would you bet on the difference?",
        why="A setting wins only if it is better beyond its interval, at matched forgetting. High "
        "drift with low forget accuracy may mean re-routed, not erased.",
    ),
    "audit": Lesson(
        see="A form that names a model, what it may have come from, and a model that never learned "
        "the forget set. The report's first box is the finding, with what was not tested.",
        try_this="Audit demo:target against demo:retrain_no_hazard with the questions part alone, "
        "and read the excess. Then empty the reference and look at what the report refuses to say.",
        why="A model that does not answer may have forgotten, or may only not be asked rightly. "
        "Without a model that never learned, nobody knows what not knowing looks like.",
    ),
    "status": Lesson(
        see="Which runs, audits and other jobs compute now and which wait, and the room that is "
        "left on disk and in memory.",
        try_this="Launch two runs on Unlearn and come back: one computes, the other waits.",
        why="Training takes all processors. Two runs at once would each be slower, and might not "
        "fit into memory together.",
    ),
}

TOUR: tuple[Stop, ...] = (
    Stop(
        "start",
        "See the mismatch",
        "Look at the difference map and click the strongest square.",
        "One or two squares in most layers stand out.",
    ),
    Stop(
        "expert",
        "Read the words",
        "Read the tokens in context that go to that expert, on both sides.",
        "Do they share a topic, or only a few tokens?",
    ),
    Stop(
        "selection",
        "Choose and weigh",
        "Move top-k and watch the outlines, the dumbbells and the effective sample size.",
        "More experts or more hardness costs effective data.",
    ),
    Stop(
        "unlearn",
        "Unlearn, or replay",
        "Launch a run, or replay the bundled one, which needs no computing.",
        "Forget accuracy falls towards 0.25; does utility hold?",
    ),
    Stop(
        "compare",
        "Judge",
        "Put the runs side by side and look at drift.",
        "Intervals first, ranks second.",
    ),
)

TRAPS: dict[str, str] = {
    "Small n": "Ten documents a side are few. Here they are drawn again and again from the full "
    "sets: the colours stay as strong, the squares change. Strong colours are not evidence; "
    "counts are.",
    "Token identity": "Does the expert follow a topic or a token? The control draws retain tokens "
    "to the forget set's token frequencies. What is left of a gap is not explained by which "
    "tokens occur.",
    "Changed scale": "The same numbers twice. Only the end of the colour scale differs. Compare "
    "maps only when their scales are locked, and read the scale first.",
}

TRAP_PAGES = ("start", "routing_map", "expert")
GAP_PAGES = ("start", "routing_map")
REPLAY_PAGES = ("start", "unlearn", "compare")
