"""The tensors of somebody else's files, read one by one; each must be taken, and have the shape that it is taken as."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from einops import rearrange
from safetensors import SafetensorError, safe_open
from torch import Tensor

from circuits.common.errors import require

DAMAGED = "it was cut short or damaged; copy or download it again"
SAFELY = (
    "Where it was written: torch.save(model.state_dict(), FILE) of torch 1.6 or later, or safetensors.torch.save_file"
)


class Tensors:
    """Tensors by name, each read when it is taken; ``says`` names their file in messages.

    Raises:
        ValueError: for two that have one name without what wrappers put before it.
    """

    def __init__(self, readers: Mapping[str, Callable[[], Tensor]], says: str):
        self._readers: dict[str, Callable[[], Tensor]] = {}
        self.says = says
        for name, read in readers.items():
            plain = _plain(name)
            require(
                plain not in self._readers,
                f"{says} holds two tensors that are {plain!r} without what a wrapper puts before it, {name!r} the "
                f"second of them; keep the one that is meant",
            )
            self._readers[plain] = read
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._readers

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def peek(self, name: str) -> Tensor:
        """Return a tensor that may be taken later.

        Raises:
            ValueError: if there is none of that name.
        """
        require(name in self, f"{self.says} has no tensor {name!r}, which a model of this family needs")
        try:
            return self._readers[name]()
        except (SafetensorError, RuntimeError, OSError) as error:
            raise ValueError(f"{name} cannot be read from {self.says} ({error}): {DAMAGED}") from error

    def take(self, name: str, *shape: int) -> Tensor:
        """Return a tensor of that shape, as it lies in the file.

        Raises:
            ValueError: if it is missing or has another shape, naming both shapes.
        """
        tensor = self.peek(name)
        require(
            tuple(tensor.shape) == shape,
            f"{name} in {self.says} has the shape {tuple(tensor.shape)}, and the configuration says {shape}",
        )
        self._taken.add(name)
        return tensor

    def to_heads(self, name: str, heads: int, width: int, d_model: int) -> Tensor:
        """Return the weight of queries, keys or values (head d_model d_head), from (head d_head, d_model)."""
        weight = self.take(name, heads * width, d_model)
        return rearrange(weight, "(head width) d_model -> head d_model width", head=heads)

    def from_heads(self, name: str, heads: int, width: int, d_model: int) -> Tensor:
        """Return the output weight (head d_head d_model), from (d_model, head d_head)."""
        weight = self.take(name, d_model, heads * width)
        return rearrange(weight, "d_model (head width) -> head width d_model", head=heads)

    def linear(self, name: str, out: int, width: int) -> Tensor:
        """Return the weight of a linear map (in out), from (out, in)."""
        return self.take(name, out, width).T

    def pass_over(self, *names: str) -> None:
        """Count tensors as taken that change nothing."""
        self._taken.update(names)

    def finish(self) -> None:
        """Check that every tensor was taken.

        Raises:
            ValueError: naming those that are left over.
        """
        left = sorted(set(self._readers) - self._taken)
        more = f" and {len(left) - 8} more" if len(left) > 8 else ""
        require(
            not left,
            f"{self.says} holds tensors that a model of this family has no place for: {', '.join(left[:8])}{more}. "
            f"They belong to another architecture, or to a part that is not known here",
        )


def safetensors(files: list[Path], stack: ExitStack) -> Tensors:
    """Return the tensors of safetensors files, which stay open as long as ``stack``.

    Raises:
        ValueError: for a file that is none or was cut short, or a name that two files hold.
    """
    readers: dict[str, Callable[[], Tensor]] = {}
    for file in files:
        require(file.is_file(), f"{file} is missing: a part of the folder was not copied; copy it whole")
        try:
            opened: Any = stack.enter_context(safe_open(file, framework="pt"))
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} is no safetensors file that can be read ({error}): {DAMAGED}") from error
        for name in opened.keys():  # noqa: SIM118 # not a mapping
            require(name not in readers, f"{name} is in {file} and in another file of the folder")
            readers[name] = lambda opened=opened, name=name: opened.get_tensor(name)
    return Tensors(readers, str(files[0] if len(files) == 1 else files[0].parent))


def sharded(index: Path, stack: ExitStack) -> Tensors:
    """Return the tensors of several safetensors files, as an index (``model.safetensors.index.json``) lists them.

    Raises:
        ValueError: for a damaged index, a missing file, or files that hold something else than it lists.
    """
    given = read_json(index).get("weight_map")
    places: dict[str, Any] = given if isinstance(given, dict) else {}
    require(bool(places), f"{index} has no weight_map: {DAMAGED}")
    names = sorted({str(file) for file in places.values()})
    inside = all(Path(name).name == name for name in names)
    require(inside, f"{index} names files outside of its folder ({names[:3]}), which are not opened")
    tensors = safetensors([index.parent / name for name in names], stack)
    lacking = sorted({_plain(name) for name in places} - set(tensors))
    require(not lacking, f"{index} lists tensors that no file holds: {', '.join(lacking[:8])}; {DAMAGED}")
    return tensors


def last_step(path: Path, name: re.Pattern[str]) -> Path | None:
    """Return the file that is meant: ``path`` itself, or in a folder that of the last step, by the number in ``name``;
    ``None`` if there is none of that name."""
    found = [path] if path.is_file() else [*path.iterdir()]
    steps = [(int(match[1]), file) for file in found if (match := name.fullmatch(file.name))]
    return max(steps)[1] if steps else None


def torch_file(file: Path) -> Tensors:
    """Return the tensors that ``torch.save`` wrote as a dictionary, read without running any code of the file.

    Raises:
        ValueError: for a file that holds other objects (a pickle), was cut short, or is no dictionary of tensors.
    """
    return tensors_in(read_torch(file), str(file))


def tensors_in(held: Any, says: str) -> Tensors:
    """Return the tensors of a dictionary.

    Raises:
        ValueError: if it is none, or holds something else.
    """
    state: dict[str, Any] = held if isinstance(held, dict) else {}
    is_state = bool(state) and all(isinstance(x, Tensor) for x in state.values())
    require(is_state, f"{says} holds no dictionary of tensors, as model.state_dict() is one")
    return Tensors({name: lambda x=x: x for name, x in state.items()}, says)


def read_torch(file: Path) -> dict[str, Any]:
    """Return the dictionary that ``torch.save`` wrote, its tensors where the file has them.

    Raises:
        ValueError: as :func:`torch_file`.
    """
    require(file.is_file(), f"there is no file {file}")
    if not is_zipfile(file):
        with file.open("rb") as opened:
            cut = opened.read(2) == b"PK"
        require(not cut, f"{file} cannot be read: {DAMAGED}")
        raise ValueError(
            f"{file} is a pickle and no file of tensors, and is not opened, as pickles can run code. {SAFELY}"
        )
    try:
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        raise ValueError(
            f"{file} is a pickle of more than tensors and is not opened, as pickles can run code. {SAFELY}"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({str(error).splitlines()[0]}): {DAMAGED}") from error
    require(isinstance(held, dict), f"{file} holds a {type(held).__name__}, where a dictionary of tensors was expected")
    return held


def read_json(file: Path) -> dict[str, Any]:
    """Return the object of a json file.

    Raises:
        ValueError: if it is damaged, or holds something else.
    """
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is no json that can be read ({error}): {DAMAGED}") from error
    require(isinstance(held, dict), f"{file} holds a {type(held).__name__}, where an object with fields was expected")
    return held


def _plain(name: str) -> str:
    """A tensor's name without what wrappers (of several processes, compiled, of x-transformers) put before it."""
    for prefix in ("module.", "_orig_mod.", "net."):
        name = name.removeprefix(prefix)
    return name
