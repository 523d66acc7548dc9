"""What pools of kernels and of noise have in common: a plan names the pool, which may still have to be made."""

from __future__ import annotations

from utils.options.fields import OptionError


class MissingPoolError(OptionError):
    """A pool is not there, or does not serve. The `prepare:` section of an option file may be about to make it anew."""


def require_same(drawn: str, held: str, what: str, path: str) -> None:
    """Raises ValueError unless a plan was drawn from the pool (of `what`, by content hash) that is held."""
    if drawn != held:
        raise ValueError(
            f"the plan was drawn from the {what} {drawn[:8]}, but {path} holds {held[:8]}; give the files that it was "
            "drawn from"
        )
