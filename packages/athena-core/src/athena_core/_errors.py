"""The errors that Athena reports in one line."""

from __future__ import annotations

from collections.abc import Iterable


class AthenaError(Exception):
    """A mistake that the user can mend: what was wrong, what was allowed, the nearest right thing.

    The command line prints it as one line and exits with code 2.

    >>> from athena_core import load
    >>> try:
    ...     load("device", "cup")
    ... except AthenaError as error:
    ...     print(error)
    unknown device `cup`. Did you mean `cpu`?
    """


class KernelFailed(AthenaError):  # noqa: N818  # what has happened, as StopIteration
    """What a kernel raises that cannot run here, before it has changed anything: the reference runs instead.

    As where its device's compiler refuses it. The first failure is warned of, and `kernels` tells it;
    from then on the op's reference runs on that device, and is differentiated where a formula fails. In
    what ``torch.compile`` made, a formula's ops have no reference, and it is raised: compile under
    `kernels_disabled`. With ``ATHENA_STRICT=1`` it is always raised.

    >>> str(KernelFailed("no compiler for this device"))
    'no compiler for this device'
    """


def nearest(received: str, allowed: Iterable[str]) -> str:
    """End an error line with the nearest allowed name, or with all of them.

    >>> nearest("lmab", ["lamb", "adamw"])
    'Did you mean `lamb`?'
    >>> nearest("x", ["lamb", "adamw"])
    'Allowed: adamw, lamb.'
    >>> nearest("x", [])
    'There is none.'
    """
    from difflib import get_close_matches

    names = sorted(set(allowed))
    close = get_close_matches(received, names, n=1)
    if close:
        return f"Did you mean `{close[0]}`?"
    return f"Allowed: {', '.join(names)}." if names else "There is none."
