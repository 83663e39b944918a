"""The plugin host: loads plugins apart from one another, and answers for what they offer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import RLock
from typing import Any, Literal, NoReturn

import pluggy

from athena_core import _discovery, _settings
from athena_core._answers import Answers, ask, refuse_claimed
from athena_core._component import Component, Kernel, Kind
from athena_core._discovery import CORE, Found, normalise
from athena_core._errors import AthenaError, nearest
from athena_core._target import describe, import_target, mistake_in_call, resolve


@dataclass(frozen=True)
class PluginStatus:
    """How a plugin fared: active, or why not. ``cause`` is the exception of one that failed.

    >>> [status.state for status in default_host().plugins() if status.distribution == "athena-core"]
    ['active']
    """

    distribution: str
    version: str
    entry_point: str
    state: Literal["active", "disabled", "incompatible", "failed"] = "active"
    reason: str = ""
    cause: BaseException | None = None


@dataclass(frozen=True)
class Offer:
    """A component, and the distribution that offers it."""

    component: Component
    distribution: str
    version: str


@dataclass(frozen=True)
class KernelOffer:
    """A kernel, and the distribution that offers it."""

    kernel: Kernel
    distribution: str


@dataclass
class _Plugin:
    status: PluginStatus
    answers: Answers = field(default_factory=Answers)
    hook: pluggy.HookRelay | None = None

    @property
    def distribution(self) -> str:
        return self.status.distribution

    @property
    def key(self) -> tuple[str, str]:
        return self.status.distribution, self.status.entry_point


class PluginHost:
    """What the installed plugins offer. They are loaded at the first query, each on its own.

    A plugin is validated whole before any of it counts. One that raises, or breaks a rule, loses only
    itself, and `plugins` says why; with ``ATHENA_STRICT=1`` its error is raised instead.

    Args:
        discover: False makes a host that never looks at what is installed, and holds only what is
            registered by hand.

    >>> host = PluginHost(discover=False)
    >>> host.register(resolve("athena_core._plugin"), "my-package").state
    'active'
    >>> host.find("device", "cpu").distribution
    'my-package'
    """

    def __init__(self, discover: bool = True) -> None:
        self._undiscovered = discover
        self._discovering = False
        self._lock = RLock()
        self._plugins: dict[tuple[str, str], _Plugin] = {}
        self._targets: dict[tuple[str, str], Any] = {}

    def register(
        self, plugin: object, distribution: str, version: str = "0", entry_point: str | None = None
    ) -> PluginStatus:
        """Take in a plugin by hand: a module, or any object with hook implementations.

        What it offers replaces what the same entry point of the same distribution offered before, so
        that registering again changes nothing. ``entry_point`` is the plugin's own name by default.

        Raises what the plugin raises, or TypeError or ValueError if an answer breaks a rule; the host
        is then as it was before.
        """
        own_name = getattr(plugin, "__name__", type(plugin).__name__)
        candidate = _Plugin(PluginStatus(normalise(distribution), version, entry_point or own_name))
        with self._lock:
            self._admit(candidate, plugin)
        if kernels := sys.modules.get("athena_core._kernels"):
            kernels.forget()  # an op that has been called before may have a kernel now
        return candidate.status

    def plugins(self) -> list[PluginStatus]:
        """List every plugin found or registered, with its state and the reason for it."""
        self._load_plugins()
        return [plugin.status for plugin in self._plugins.values()]

    def offers(self, kind: str | None = None) -> list[Offer]:
        """List the components with their distributions, by kind and name. Imports none of them.

        Raises AthenaError if no plugin declares ``kind`` or offers a component of it.
        """
        offers = [
            Offer(component, plugin.distribution, plugin.status.version)
            for plugin in self._active()
            for component in plugin.answers.components
            if kind in (None, component.kind)
        ]
        if not offers and kind is not None:
            self._refuse_unknown_kind(kind)
        return sorted(offers, key=lambda offer: (offer.component.kind, offer.component.name))

    def components(self, kind: str | None = None) -> list[Component]:
        """List the components, of one kind or of all; see `offers`."""
        return [offer.component for offer in self.offers(kind)]

    def kernels(self) -> list[KernelOffer]:
        """List the kernels with their distributions. Imports none of them."""
        return [
            KernelOffer(kernel, one.distribution) for one in self._active() for kernel in one.answers.kernels
        ]

    def kinds(self) -> list[Kind]:
        """List the kinds that plugins declare, by name."""
        return sorted((kind for _, kind in self._declared()), key=lambda kind: kind.name)

    def kind(self, name: str) -> Kind:
        """Return the kind of this name, ``"name"`` or ``"distribution/name"``.

        Raises AthenaError if none has this name, or two distributions declare it.
        """
        return self._find_kind(name)[1]

    def owner(self, kind: str) -> str:
        """Return the distribution that declares a kind. Raises AthenaError as `kind` does."""
        return self._find_kind(kind)[0]

    def find(self, kind: str, name: str) -> Offer:
        """Return the component of this name, ``"name"`` or ``"distribution/name"``.

        Raises AthenaError if there is none, or if the bare name is that of two distributions. Where a
        plugin that failed would have been the one to offer it, raises what the plugin raised.
        """
        distribution, bare = _split(name)
        found = [
            Offer(component, plugin.distribution, plugin.status.version)
            for plugin in self._active()
            for component in plugin.answers.components
            if (component.kind, component.name) == (kind, bare) and distribution in ("", plugin.distribution)
        ]
        if not found:
            self._raise_missing(kind, name)
        _refuse_ambiguous(kind, bare, [offer.distribution for offer in found])
        return found[0]

    def load(self, kind: str, name: str) -> Any:
        """Import a component's target, once.

        Raises AthenaError as `find` does, if a requirement is not met, with the command that meets it,
        or if the target cannot be imported, from the import's own error.
        """
        if (kind, name) not in self._targets:
            offer = self.find(kind, name)
            self._targets[kind, name] = import_target(
                offer.component, f"{offer.distribution} {offer.version}"
            )
        return self._targets[kind, name]

    def create(self, kind: str, name: str, /, *args: Any, **options: Any) -> Any:
        """Load a component and call it.

        Raises AthenaError as `load` does, or if the arguments do not fit, with the nearest right
        option. What the component itself raises passes untouched.
        """
        try:
            target = self._targets[kind, name]
        except KeyError:
            target = self.load(kind, name)
        try:
            return target(*args, **options)
        except TypeError as error:
            mistake = mistake_in_call(target, args, options)
            if not mistake:
                raise
            raise AthenaError(f"{kind} `{name}`: {mistake}") from error

    def select_device(self, request: str, candidates: Sequence[str]) -> str | None:
        """Ask each plugin which of the ``candidates`` to use; None if none has an opinion.

        A plugin that raises, or answers with another device, has failed. Raises AthenaError if two
        plugins differ.
        """
        answers: dict[str, str] = {}
        for plugin in self._active():
            assert plugin.hook is not None
            with self._apart(plugin):
                answer = plugin.hook.athena_select_device(request=request, candidates=tuple(candidates))
                if answer not in (None, *candidates):
                    allowed = ", ".join(candidates)
                    raise ValueError(f"athena_select_device must answer one of {allowed}; got {answer!r}.")
                if answer is not None:
                    answers.setdefault(answer, plugin.distribution)
        if len(answers) > 1:
            said = ", ".join(f"`{distribution}` chooses {answer}" for answer, distribution in answers.items())
            raise AthenaError(f"plugins differ on the device for `{request}`: {said}. Ask for one by name.")
        return next(iter(answers), None)

    def _load_plugins(self) -> None:
        if not self._undiscovered:
            return
        with self._lock:
            if self._discovering:
                raise RuntimeError("a plugin module must not query the registry while it is being loaded.")
            self._discovering = True
            try:
                if self._undiscovered:
                    self._discover()
                    self._undiscovered = False
            finally:
                self._discovering = False

    def _discover(self) -> None:
        installed = _discovery.scan()
        core_version = next((found.version for found in installed if found.distribution == CORE), None)
        if core_version is None:
            raise AthenaError(f"{CORE}'s own metadata is not on sys.path. Install it: pip install {CORE}")
        switches = {} if _settings.only_core() else _settings.switches()
        for found in installed:
            plugin = _Plugin(_judge(found, core_version, switches))
            if plugin.status.state == "active":
                with self._apart(plugin):
                    self._admit(plugin, resolve(found.value))
            self._plugins[plugin.key] = plugin

    def _admit(self, candidate: _Plugin, plugin: object) -> None:
        """Ask the plugin, check its answers against the others', then commit."""
        candidate.hook = ask(plugin, candidate.answers)
        for other in self._plugins.values():
            same_distribution = other.distribution == candidate.distribution
            rival = other.status.state == "active" and other.key != candidate.key
            if rival and (same_distribution or candidate.answers.kernels):
                refuse_claimed(candidate.answers, other.answers, other.distribution, same_distribution)
        self._plugins[candidate.key] = candidate
        self._targets.clear()

    @contextmanager
    def _apart(self, plugin: _Plugin) -> Iterator[None]:
        """Run a plugin's code: what it raises, SystemExit included, becomes its status."""
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if _settings.strict():
                raise
            plugin.status = replace(plugin.status, state="failed", reason=describe(error), cause=error)
            self._targets.clear()

    def _active(self) -> list[_Plugin]:
        self._load_plugins()
        return [plugin for plugin in list(self._plugins.values()) if plugin.status.state == "active"]

    def _declared(self) -> list[tuple[str, Kind]]:
        return [(plugin.distribution, kind) for plugin in self._active() for kind in plugin.answers.kinds]

    def _find_kind(self, name: str) -> tuple[str, Kind]:
        distribution, bare = _split(name)
        found = [
            (owner, kind)
            for owner, kind in self._declared()
            if kind.name == bare and distribution in ("", owner)
        ]
        if not found:
            self._raise_lost(distribution, lambda answers: any(kind.name == bare for kind in answers.kinds))
            self._refuse_unknown_kind(name)
            raise AthenaError(f"the kind `{name}` is declared by no installed plugin.")
        _refuse_ambiguous("kind", bare, [owner for owner, _ in found])
        return found[0]

    def _refuse_unknown_kind(self, kind: str) -> None:
        """Refuse a kind that no plugin declares and no component has."""
        known = {declared.name for _, declared in self._declared()}
        known |= {component.kind for plugin in self._active() for component in plugin.answers.components}
        if kind not in known:
            hint = f"Install the package that does. {nearest(kind, known)}{self._not_loaded()}"
            raise AthenaError(f"no installed plugin offers the kind `{kind}`. {hint}")

    def _raise_missing(self, kind: str, name: str) -> NoReturn:
        distribution, bare = _split(name)
        wanted = (kind, bare)
        self._raise_lost(
            distribution, lambda answers: wanted in [(one.kind, one.name) for one in answers.components]
        )
        prefix = "{0.distribution}/" if distribution else ""
        allowed = [f"{prefix.format(offer)}{offer.component.name}" for offer in self.offers(kind)]
        raise AthenaError(f"unknown {kind} `{name}`. {nearest(name, allowed)}{self._not_loaded()}")

    def _raise_lost(self, distribution: str, offered: Callable[[Answers], bool]) -> None:
        """Raise why a plugin is not active, if it is of ``distribution``, or had ``offered`` what is wanted.

        Its own exception, or AthenaError where that is none to raise in the caller's process.
        """
        for plugin in self._plugins.values():
            status = plugin.status
            wanted = plugin.distribution == distribution if distribution else offered(plugin.answers)
            if wanted and status.state != "active":
                if isinstance(status.cause, Exception):
                    raise status.cause
                about = f"plugin `{status.distribution}` {status.version} is {status.state}: {status.reason}"
                raise AthenaError(about) from status.cause

    def _not_loaded(self) -> str:
        statuses = [plugin.status for plugin in self._plugins.values()]
        lost = [one for one in statuses if one.state != "active"]
        names = ", ".join(f"`{one.distribution}` ({one.state})" for one in lost)
        return f" Not loaded: {names}; see `athena plugins`." if lost else ""


_default = PluginHost()


def default_host() -> PluginHost:
    """Return the host that `athena_core.components`, `load` and `create` ask.

    >>> default_host().owner("device")
    'athena-core'
    """
    return _default


def _judge(found: Found, core_version: str, switches: dict[str, str]) -> PluginStatus:
    """Decide before any import whether a plugin is to be loaded."""
    status = PluginStatus(found.distribution, found.version, found.entry_point)
    if found.distribution == CORE:
        return status
    switch = "ATHENA_NO_PLUGINS" if _settings.only_core() else switches.get(found.distribution)
    if switch:
        return replace(status, state="disabled", reason=f"switched off by {switch}")
    if unmet := _discovery.unmet(found.requires_core, core_version):
        return replace(status, state="incompatible", reason=f"requires {unmet}; this is {core_version}")
    return status


def _split(name: str) -> tuple[str, str]:
    distribution, _, bare = name.rpartition("/")
    return normalise(distribution), bare


def _refuse_ambiguous(label: str, name: str, distributions: list[str]) -> None:
    if len(distributions) > 1:
        offering = " and ".join(f"`{distribution}`" for distribution in distributions)
        qualified = " or ".join(f"`{distribution}/{name}`" for distribution in distributions)
        raise AthenaError(f"{label} `{name}` is offered by {offering}. Say which: {qualified}.")
