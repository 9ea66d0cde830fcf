"""Which names, templates and fillers prompts on indirect objects have, and how they are split and corrupted.

Source: Wang et al., arXiv 2211.00593; the four prompts of arXiv 2412.15113.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from circuits.common.errors import require
from circuits.common.text_coverage import few, shown
from experiments.tasks.kinds import TokenTaskConfig
from experiments.tasks.sentences import vocabulary as words

SPLITS: dict[str, str] = {
    "train": "names and templates of training, new combinations",
    "names": "names that are in no such sentence in training",
    "templates": "templates that are not in training",
    "held-out": "such names in such templates",
    "paper": "the four prompts of arXiv 2412.15113, either name as subject",
}
CORRUPTIONS: dict[str, str] = {
    "flip": "the two names change places everywhere, so the answer is the other one",
    "s2": "the second mention of the subject is the indirect object instead, so the answer is the other one",
    "abc": "all three names are others (of so many as there are), all different: nothing is repeated to infer from",
}
SLOTS = ("A", "B", "S", "IO", "place", "object")
NEEDED = ("A", "B", "S", "IO")


@dataclass(frozen=True)
class IOIConfig(TokenTaskConfig):
    """Names, templates and fillers; a template has the slots {A} {B} {S} {IO}, and may have {place} and {object}.

    The slots for names stand in this order: what is before ``{IO}`` is the prompt.

    Raises:
        ValueError: if names are too few, given twice, no words or held out and not; if there is no template, place or
            object; for fields of another type.
    """

    names: tuple[str, ...] = words.NAMES
    held_out_names: tuple[str, ...] = words.HELD_OUT_NAMES
    templates: tuple[str, ...] = words.TEMPLATES
    held_out_templates: tuple[str, ...] = words.HELD_OUT_TEMPLATES
    places: tuple[str, ...] = words.PLACES
    objects: tuple[str, ...] = words.OBJECTS
    n_ctx: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind, there in (("names", self.names), ("held_out_names", self.held_out_names)):
            _check_names(kind, there)
        for kind in ("names", "templates"):
            both = set(map(_plain, getattr(self, kind))) & set(map(_plain, getattr(self, f"held_out_{kind}")))
            require(not both, f"{sorted(both)} are both in training and held out; take them from one of the two")
        for kind in ("templates", "places", "objects"):
            require(bool(getattr(self, kind)), f"there is no {kind[:-1]}; give one at least ({kind})")
        for kind in ("places", "objects"):
            blank = any(not _plain(text) for text in getattr(self, kind))
            require(not blank, f"{kind} must be words, and one of them is blank; leave it out")


def _plain(text: str) -> str:
    """A text with single spaces between its words and none around them: the same to a reader."""
    return " ".join(text.split())


def _check_names(kind: str, names: Sequence[str]) -> None:
    twice = sorted(name for name, n in Counter(map(_plain, names)).items() if n > 1)
    require(
        not twice,
        f"{kind} must differ from each other by more than blanks, for a right answer would be a wrong one too; these "
        f"come more than once: {shown(twice)}",
    )
    require(len(names) >= 3, f"{kind} must be three at least (three differ in 'abc'), got {len(names)}")
    around = [name for name in names if name != name.strip() or not name]
    require(not around, f"{kind} must be words without blanks around them, got {shown(around)}; leave out the blanks")
    several = {name: len(name.split()) for name in names if len(name.split()) > 1}
    require_single(several, "with blanks inside", kind)


def require_single(several: Mapping[str, int], why: str, kind: str = "names", instead: str = "") -> None:
    """Refuse names that are several words or tokens, each given with how many; ``instead`` is what else to do.

    Raises:
        ValueError: if there is one.
    """
    require(
        not several,
        f"names must be single tokens, for the answer is one; {why} these are more: "
        f"{few([f'{name} ({n})' for name, n in several.items()])}; take other names (IOIConfig.{kind}) or another "
        f"tokenizer{instead}",
    )
