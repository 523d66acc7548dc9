"""What wraps a state dict in the files of other programs, and how to find the network inside.

Programs nest it (`params_ema`, `state_dict`, `model`) and put words before its names (`module.`, `_orig_mod.`,
`generator.`, `net_g.`), beside discriminators, averages, counters and optimizers. Entries and prefixes are the same
here: a file is a flat mapping of dotted names, and wrapping words are taken off the front of names, one at a time,
until a network is left that is known by its keys, or no such word.
"""

import re
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from models.weights.guess import kind_of
from models.weights.key_styles import State

Prefer = Literal["ema", "raw"]
Role = Literal["generator", "discriminator"]

_AVERAGED = {"ema", "average", "averaged", "avg", "swa", "shadow"}
_GENERATOR = {"g", "gen", "generator", "netg"}
_DISCRIMINATOR = {"d", "dis", "disc", "discriminator", "netd", "critic"}
# Names that a module may also give to one of its parts.
_PARTS = {"model", "net", "network", "module", "sr", "student"}
_NEUTRAL = {"params", "state", "dict", "orig", "mod", "weights", "online", "checkpoint", "raw", "current", *_PARTS}
_WORDS = _NEUTRAL | _AVERAGED | _GENERATOR | _DISCRIMINATOR


def flat_tensors(held: object, before: str = "") -> State:
    """Return the tensors of nested dicts by dotted names; what is no tensor, or has no name, is left out."""
    found: State = {}
    for key, value in held.items() if isinstance(held, Mapping) else ():
        if isinstance(value, Tensor) and isinstance(key, str):
            found[before + key] = value
        elif isinstance(key, str):
            found |= flat_tensors(value, f"{before}{key}.")
    return found


def unwrap(tensors: State, prefer: Prefer = "ema", role: Role = "generator") -> State:
    """Return the state dict of the network inside, under the names that the network itself gave.

    Args:
        tensors: by the names of `flat_tensors`.
        prefer: which weights to take where there are averaged and raw ones.
        role: which network to take where there are a generator and a discriminator.
    """
    while kind_of(tensors) is None:
        groups = _by_first_word(tensors)
        wrappers = [word for word in groups if _may_wrap(word, groups[word])]
        if not wrappers:
            break
        word = min(wrappers, key=lambda word: _rank(word, prefer, role))
        inner = groups[word]
        ambiguous = _tokens(word) <= _PARTS and len(wrappers) < len(groups)
        if ambiguous and kind_of(unwrap(inner, prefer, role)) is None:
            break  # `model` beside `head` is a part of one network
        tensors = inner
    return tensors


def _by_first_word(tensors: State) -> dict[str, State]:
    """Return the names by their first word, without it; single names such as counters belong to no network."""
    groups: dict[str, State] = {}
    for name, tensor in tensors.items():
        word, dot, rest = name.partition(".")
        if dot:
            groups.setdefault(word, {})[rest] = tensor
    return groups


def _tokens(word: str) -> set[str]:
    """Return the words of `net_g_ema` or `netG` in lower case."""
    return {token.lower() for token in re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", word)}


def _may_wrap(word: str, inner: State) -> bool:
    """Tell whether a word says nothing of the network. Before a number it is a chain of layers; DDP's is not."""
    return _tokens(word) <= _WORDS and (word == "module" or not any(name[0].isdigit() for name in inner))


def _rank(word: str, prefer: Prefer, role: Role) -> tuple[bool, bool, bool, int]:
    """Return the order in which wrappers beside each other are chosen, lowest first."""
    tokens = _tokens(word)
    other_role = bool(tokens & _DISCRIMINATOR) != (role == "discriminator")
    other_weights = bool(tokens & _AVERAGED) != (prefer == "ema")
    customary = ("params", "state", "model", "net")
    position = min([i for i, token in enumerate(customary) if token in tokens], default=len(customary))
    return other_role, other_weights, not tokens & _GENERATOR, position
