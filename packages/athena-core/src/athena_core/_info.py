"""`athena info`: what a component is, its options, and its picture."""

from __future__ import annotations

import inspect
from pathlib import Path

from athena_core._errors import AthenaError
from athena_core._host import default_host
from athena_core._target import resolve


def describe(kind: str, name: str) -> str:
    """A component's facts, and the options that its target takes, as text."""
    host = default_host()
    offer = host.find(kind, name)
    component, target = offer.component, host.load(kind, name)
    facts = {
        "component": f"{component.kind}/{component.name}",
        "summary": component.summary,
        "paper": component.paper,
        "offered by": f"{offer.distribution} {offer.version}",
        "target": component.target,
        "requires": ", ".join(component.requires),
    }
    lines = [f"{key:<12}{value}" for key, value in facts.items() if value]
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):  # not callable, or written in C without a signature
        parameters = []
    lines += [f"{'option' if i == 0 else '':<12}{_plainly(p)}" for i, p in enumerate(parameters)]
    return "\n".join([*lines, "", inspect.getdoc(target) or ""]).rstrip()


def plot(kind: str, name: str, folder: Path) -> Path:
    """Draw a component as its kind draws one; return the picture's path.

    Raises AthenaError if the kind has no picture.
    """
    from athena_core.figures import save

    host = default_host()
    target = host.load(kind, name)
    if not (function := host.kind(kind).plot):
        drawn = [k.name for k in host.kinds() if k.plot]
        raise AthenaError(
            f"components of kind `{kind}` have no picture; those of {', '.join(drawn) or 'none'} have."
        )
    path = folder / f"{kind}-{name.replace('/', '-')}.png"
    folder.mkdir(parents=True, exist_ok=True)
    save(resolve(function)(target), path)
    return path


def _plainly(parameter: inspect.Parameter) -> str:
    """A parameter as it is written, annotations that are strings without their quotes."""
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    annotation, default = parameter.annotation, parameter.default
    if not isinstance(annotation, str):
        annotation = "" if annotation is parameter.empty else inspect.formatannotation(annotation)
    typed = f": {annotation}" if annotation else ""
    return f"{stars}{parameter.name}{typed}{'' if default is parameter.empty else f' = {default!r}'}"
