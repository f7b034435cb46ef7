"""Room on the disk for what does not fit into memory, while somebody holds it."""

import contextlib
import weakref
from collections.abc import Mapping
from pathlib import Path

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InputError, reason_of, short
from .unfinished import sweep, temporary


class Scratch:
    """A folder in ``room``, the root of a run store, gone with this object; what killed processes
    left there is removed by the next one. Raises InputError where it cannot be written."""

    def __init__(self, room: Path) -> None:
        self._room, stack = room, contextlib.ExitStack()
        with self._sentence():
            sweep(room)
            made = temporary(room, ".unfinished", is_folder=True)
            self.folder = stack.enter_context(made)
        self._end = weakref.finalize(self, stack.close)

    def save(self, name: str, tensors: Mapping[str, Tensor]) -> Path:
        """Write ``tensors`` as one safetensors file, in the place of an earlier one."""
        file = self.folder / f"{name}.safetensors"
        with self._sentence():
            save_file({key: value.contiguous() for key, value in tensors.items()}, file)
        return file

    @contextlib.contextmanager
    def _sentence(self):
        try:
            yield
        except (OSError, safetensors.SafetensorError) as error:
            raise InputError(
                f"What does not fit into memory cannot be written to {short(self._room)}: "
                f"{reason_of(error)}; free some space, set BIPCORE_CACHE to another folder, or "
                "allow more memory."
            ) from error
