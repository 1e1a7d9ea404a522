"""The prior of a command: loaded with its options, and of a class."""

from wellposed.cli.names import make, parse_assignments
from wellposed.cli.settings import PriorOptions
from wellposed.errors import ArgumentError, require, require_choice
from wellposed.priors import Guided, Prior, SpatioSpectral, Tuned
from wellposed.priors.adapters.tuned import WAYS
from wellposed.priors.spatio_spectral.prior import NAME as SPATIO_SPECTRAL
from wellposed.priors.stored.registry import Checkpoint, read_checkpoint

DEFAULTS = {"mri": "brain-mri", "ct": "ct"}
"""Default priors of operators; the default of the others is natural."""


def prior_name(operator: str, o: PriorOptions) -> str:
    """Return the prior of the options, by default that of an operator."""
    return DEFAULTS.get(operator, "natural") if o.prior is None else o.prior


def load_prior(source: str, o: PriorOptions) -> Prior:
    """Return a prior as the options have it; see `registry.load` and `of_class`.

    ``spatio-spectral`` is `SpatioSpectral`, fitted to each input; --load has its settings.
    """
    require_choice("--arithmetic", o.arithmetic, WAYS)
    prior = _loaded(source, o)
    return prior if o.arithmetic == "single" else Tuned(prior, o.arithmetic)


def _loaded(source: str, o: PriorOptions) -> Prior:
    if source == SPATIO_SPECTRAL:
        told = ", ".join(_told(o))
        require(not told, told, "text", "none, as this prior is not told a text")
        settings = parse_assignments("--load", o.load)
        return of_class(make("--prior", SpatioSpectral, settings, "--load"), o)
    return of_class(load_checkpoint(source, o).prior, o)


def load_checkpoint(source: str, o: PriorOptions) -> Checkpoint:
    """Return a prior as it was stored, with its family, told the prompt if there is one."""
    return read_checkpoint(source, **{**parse_assignments("--load", o.load), **_told(o)})


def _told(o: PriorOptions) -> dict[str, object]:
    """Return the settings of a prior that is told a text, where the options have any."""
    texts = {"prompt": o.prompt, "negative_prompt": o.negative_prompt}
    told: dict[str, object] = {name: text for name, text in texts.items() if text is not None}
    return told | {"guidance": o.guidance} if told and o.guidance != 1 else told


def of_class(prior: Prior, o: PriorOptions) -> Prior:
    """Return the prior of the options' class and guidance; others than conditional as they are.

    Raises:
        ArgumentError: no class of a class-conditional prior, or a class of another one.
    """
    count = getattr(getattr(prior, "prior", prior), "num_classes", None)
    if count is None:
        given = {"--class": o.class_, "--null-class": o.null_class}
        for name, value in given.items():
            require(value is None, name, value, "none, as this prior is not class-conditional")
        if not _told(o):
            accepted = "1, as this prior has no classes; one that is told a text takes --prompt"
            require(o.guidance == 1, "--guidance", o.guidance, accepted)
        return prior
    if o.class_ is None:
        raise ArgumentError(f"--class: got none, accepted: 0 to {count - 1}, as this prior has")
    for name, value in {"--class": o.class_, "--null-class": o.null_class}.items():
        inside = value is None or 0 <= value < count
        require(inside, name, value, f"0 to {count - 1}, as this prior has")
    return Guided(prior, o.class_, o.guidance, o.null_class)
