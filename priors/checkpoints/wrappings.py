"""State dicts inside the containers of trainers, with prefixes, and averages beside weights.

Averaged weights are used for sampling. They are recognised by their names.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from wellposed.errors import CheckpointError, require_choice

State = dict[str, Tensor]

AVERAGED = re.compile(
    r"(?<![a-z])ema|(?<!sch)ema(?![a-z])|shadow|averag|polyak|(?<![a-z])swa(?![a-z])"
)
"""Parts of the lower-case names of containers and prefixes of averaged weights."""

PASSED = re.compile(r"optim|(?<![a-z])opt(?![a-z])|sched|scaler|(?<![a-z])lr(?![a-z])")
"""Containers with tensors, but without a network."""

CONTAINERS = (
    "state_dict",
    "model",
    "params",
    "model_state_dict",
    "net",
    "unet",
    "network",
    "weights",
)
"""Containers of the network, if there are other networks, e.g. a discriminator."""

WRAPPER = re.compile(
    r"_?(module|orig_mod|model|net|network|unet|u_net|denoiser|denoise_fn|denoise_net|diffusion"
    r"|diffusion_model|ddpm|backbone|generator|net_?g|score_model|score|eps_model|noise_model"
    r"|(online|ema|averaged|swa|base|inner|student|teacher)_(model|net|network|unet)|ema|model_?ema"
    r"|dm|restorer|net_?ema)\d*",
    re.IGNORECASE,
)
"""Prefixes that wrappers of a network add to all its weights."""


@dataclass(frozen=True)
class Found:
    """A set of weights in a checkpoint.

    Attributes:
        path: names of its containers, joined by dots.
        state: its tensors by name.
        averaged: whether they are averages, judging by its name.
    """

    path: str
    state: State
    averaged: bool

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.path or "the top level"


def unwrap(content: object, where: str, chosen: str | None = None) -> State:
    """Return the weights of the network in a checkpoint, averaged if available; ``{}`` if none.

    Args:
        content: content of the file.
        where: beginning of error messages, which names the file.
        chosen: path of the set of weights, as in error messages.

    Raises:
        CheckpointError: several sets that cannot be distinguished; names them.
        UnknownNameError: no set of weights with this path.
    """
    found = list(_sets(content, ""))
    taken = _best(found, where) if chosen is None else _chosen(found, chosen)
    if taken is None:  # no weights, but perhaps tensors for a message
        return _tensors(content)
    return bare(_completed(taken, found))


def _chosen(found: list[Found], path: str) -> Found:
    paths = [each.path for each in found]
    return found[paths.index(require_choice("weights", path, paths))]


def _tensors(content: object) -> State:
    items = content.items() if isinstance(content, Mapping) else ()
    return {k: v for k, v in items if isinstance(k, str) and isinstance(v, Tensor)}


def _sets(content: object, path: str) -> Iterator[Found]:
    """Yield all sets of weights in a container."""
    if isinstance(content, (list, tuple)):
        yield from _listed(content, path)
    if not isinstance(content, Mapping) or "param_groups" in content:
        return
    tensors = _tensors(content)
    if any(v.ndim > 1 for v in tensors.values()):
        yield from _split(tensors, path)
    for name, inner in content.items():
        if not isinstance(name, str) or PASSED.search(name.lower()):
            continue
        below = f"{path}.{name}" if path else name
        if name.startswith("shadow") and isinstance(inner, (list, tuple)):
            yield Found(below, {str(i): v for i, v in enumerate(inner)}, True)
        else:
            yield from _sets(inner, below)


def _listed(content: Sequence[object], path: str) -> Iterator[Found]:
    """Yield the sets of ``[model, optimizer, epoch, step, ema]``, as saved by DDPM trainers."""
    parts = [(i, list(_sets(part, f"{path}[{i}]"))) for i, part in enumerate(content)]
    parts = [(i, found) for i, found in parts if found]
    for place, (_, found) in enumerate(parts):
        last = 0 < place == len(parts) - 1
        for each in found:
            yield Found(each.path, each.state, each.averaged or last)


def _split(state: State, path: str) -> Iterator[Found]:
    """Yield a set, or the averages in it with a prefix, and the rest."""
    tops = {key.split(".")[0] for key in state if "." in key}
    averages = sorted(top for top in tops if AVERAGED.search(top.lower()))
    rest = {k: v for k, v in state.items() if k.split(".")[0] not in averages}
    for top in averages:
        inner = {k.removeprefix(f"{top}."): v for k, v in state.items() if k.startswith(f"{top}.")}
        if any(v.ndim > 1 for v in inner.values()):
            yield Found(f"{path}.{top}" if path else top, inner, True)
    if any(v.ndim > 1 for v in rest.values()):
        yield Found(path, rest, not averages and bool(AVERAGED.search(path.lower())))


def _best(found: list[Found], where: str) -> Found | None:
    """Return the averaged set, or the only one, or the one in a container of networks."""
    sets = [each for each in found if each.averaged] or found
    if len(sets) > 1 and not sets[0].averaged:
        named = [each for each in sets if each.path.split(".")[-1] in CONTAINERS]
        alike = [each for each in sets if _shapes(each) == _shapes(named[0])] if named else []
        others = [each for each in alike if each is not named[0]]
        sets = [named[0], *others] if len(named) == 1 else sets
    others = [each for each in sets[1:] if not _same(each.state, sets[0].state)]
    if others:
        names = " and ".join(repr(each.name) for each in (sets[0], *others))
        kind = "averaged weights" if sets[0].averaged else "weights"
        raise CheckpointError(
            f"{where} has several sets of {kind}, {names}; accepted: one set, or the option "
            f"weights={sets[0].path!r}"
        )
    return sets[0] if sets else None


def _shapes(found: Found) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of a set, which tell whether it is of the same network."""
    return {key: tuple(value.shape) for key, value in bare(found.state).items()}


def _same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(
        v.shape == b[k].shape and v.equal(b[k]) for k, v in a.items()
    )


def _completed(taken: Found, found: list[Found]) -> State:
    """Return a set, with the buffers and names that averages may lack."""
    if not taken.averaged:
        return taken.state
    ours = bare(taken.state)
    for each in found:
        theirs = {} if each.averaged else bare(each.state)
        named = _named(ours, theirs)
        if named is not None:
            return theirs | named
    return taken.state


def _named(averages: State, weights: State) -> State | None:
    """Return averages under the names of their weights, or None for averages of other weights.

    Names may lack their dots (CompVis), or there may be only the order of the parameters.
    """
    undotted = {key.replace(".", ""): key for key in weights}
    names = {
        key: key if key in weights else undotted.get(key.replace(".", "")) for key in averages
    }
    if not all(key.isdigit() for key in averages):
        inside = {names[k]: v for k, v in averages.items() if names[k] is not None}
        fits = all(weights[k].shape == v.shape for k, v in inside.items() if k is not None)
        enough = sum(v.ndim > 1 for v in inside.values()) == sum(
            v.ndim > 1 for v in averages.values()
        )
        return {k: v for k, v in inside.items() if k is not None} if fits and enough else None
    left, matched = list(averages.values()), State()
    for key, value in weights.items():
        if left and value.shape == left[0].shape and value.is_floating_point():
            matched[key] = left.pop(0)
    return None if left else matched


def bare(state: State) -> State:
    """Return a state dict without the prefixes that all its weights share, e.g. ``module.``.

    Scalars and vectors beside the weights, e.g. the ``betas`` of a diffusion, keep their names.
    """
    while True:
        tops = {key.split(".")[0] for key, value in state.items() if value.ndim > 1}
        dotted = all("." in key for key, value in state.items() if value.ndim > 1)
        if len(tops) != 1 or not dotted or not WRAPPER.fullmatch("".join(tops)):
            return state
        prefix = f"{tops.pop()}."
        state = {key.removeprefix(prefix): value for key, value in state.items()}
