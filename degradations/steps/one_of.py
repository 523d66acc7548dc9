"""One of several steps, drawn anew for each sample."""

from collections.abc import Mapping, Sequence

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step, StepEntry


@STEPS.register("one_of")
class OneOf(Step):
    """Draw one of several steps, and apply that. A plan says which: `{which: NAME, ...}`.

    Args:
        of: the steps by name; their probabilities `prob` sum to 1.
    """

    def __init__(self, of: Mapping[str, StepEntry]) -> None:
        total = sum(entry.prob for entry in of.values())
        if abs(total - 1) > 1e-6:
            given = ", ".join(f"{name} {entry.prob:g}" for name, entry in of.items())
            raise ValueError(f"of: the probabilities `prob` sum to {total:g}, expected 1 (found {given or 'no step'})")
        if nested := [name for name, entry in of.items() if isinstance(entry.step, OneOf)]:
            raise ValueError(f"of.{nested[0]}: found a one_of within a one_of, expected its steps among these")
        self.steps = {name: entry.step for name, entry in of.items()}
        self.bounds = np.cumsum([entry.prob for entry in of.values()])[:-1]

    def sample(self, rng: np.random.Generator, state: State) -> Drawn | None:
        which = list(self.steps)[int(np.searchsorted(self.bounds, (state.decisions or rng).random(), side="right"))]
        drawn = self.steps[which].sample(rng, state)
        return None if drawn is None else {"which": which, **drawn}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        return images.in_groups(
            [values["which"] for values in drawn],
            lambda which, part, at: self.steps[which].apply(part, [drawn[i] for i in at]),
        )

    def kernel(self, drawn: Drawn) -> np.ndarray | None:
        return self.steps[drawn["which"]].kernel(drawn)

    def sigma(self, drawn: Drawn) -> float | None:
        return self.steps[drawn["which"]].sigma(drawn)
