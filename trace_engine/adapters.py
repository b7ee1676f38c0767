"""Which types of model LoRA's adapters do not fit, known without opening one.

The models room tells it from a model's tensors; this is the same answer by name, for whoever must
not import torch. A test of every type keeps the two alike.
"""

WITHOUT_ADAPTERS = frozenset({"dbrx"})
"""Model types, as config.json names them."""
NO_ADAPTERS = (
    "LoRA's adapters fit tensors of three dimensions with the experts on the first, and these "
    "experts are stored otherwise"
)
"""Why LoRA is refused: the same words in the refusal, in `inspect` and in docs/models.md."""
INSTEAD = "Train all parameters or selected experts instead."
