"""Token ids to calibrate on, wherever they are from."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..errors import InputError

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """Token ids to calibrate on: ``tokens`` is a LongTensor (N, T) on the CPU.

    ``source`` and ``split`` name the text, ``seed`` chose the samples, ``beginning`` says where
    they have the beginning-of-text token (see `beginnings`; empty where that is not known). Two
    sets are the same where their `fingerprint` is.
    """

    tokens: Tensor
    source: str = "tokens"
    split: str = ""
    seed: int | None = None
    beginning: str = ""

    @classmethod
    def from_tokens(cls, tokens: Tensor, *, source: str = "tokens") -> "CalibrationSet":
        """A set of the user's own token ids, an integer tensor (N, T) or (T,).

        Raises InputError when it is empty, not integer, or of another rank.
        """
        integer = isinstance(tokens, Tensor) and tokens.dtype in _INTEGERS
        if not integer or tokens.ndim not in (1, 2):
            raise InputError("Calibration tokens are an integer tensor of shape (N, T).")
        tokens = torch.atleast_2d(tokens).detach().to("cpu", torch.long).contiguous()
        if tokens.numel() == 0:
            raise InputError("The calibration set is empty; give at least one token.")
        return cls(tokens=tokens, source=source)

    @property
    def samples(self) -> int:
        """N."""
        return self.tokens.shape[0]

    @property
    def seq_len(self) -> int:
        """T, in tokens."""
        return self.tokens.shape[1]

    def only(self, samples: slice) -> "CalibrationSet":
        """The set of some of its samples."""
        return replace(self, tokens=self.tokens[samples])

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the shape and the token ids."""
        digest = hashlib.sha256(repr(tuple(self.tokens.shape)).encode())
        digest.update(self.tokens.numpy().astype("<i8").tobytes())
        return digest.hexdigest()[:16]
