"""Running a model: watching it, one decoder block at a time, and the loss behind every perplexity.

The only file that registers hooks and replaces what modules do.

`enter_blocks` says what would enter every block besides the hidden states (positions, masks);
with that, a block of any copy of the model can be run on hidden states of the caller's choice.
`leave_blocks` runs what comes after the last block. A `Walk` takes many batches through a model so,
block by block; a streamed one is read once then. `silent_sublayer` says how a block runs as if
its attention or its FFN were gone, its weights being left alone.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ..errors import InputError, short
from ..progress import Progress
from ..store.scratch import Scratch
from .adapters import Adapter, Block
from .devices import widest
from .streaming import Stream, fetch, present, stream_of


def check_vocabulary(model: nn.Module, tokens: Tensor, tokenizer: Any = None) -> None:
    """Raise InputError where ``tokens`` (any shape) has one that ``model`` has no embedding of.

    A tokenizer may know more tokens than the model it came with; given, it says the token's text.
    """
    size = model.get_input_embeddings().weight.shape[0]
    for token in {int(tokens.min()), int(tokens.max())} if tokens.numel() else ():
        if not 0 <= token < size:
            said = tokenizer.convert_ids_to_tokens(token) if tokenizer and token >= 0 else None
            named = "" if said is None else f" ({short(repr(said), 60)})"
            raise InputError(
                f"Token id {token}{named} is beyond the model's vocabulary of {size:,}; give text "
                "without it, or the tokenizer that belongs to the model."
            )


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Within the block ``model`` is in evaluation mode; each module's own mode comes back after."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def capture_output_gradients(
    modules: Mapping[Any, nn.Module], take: Callable[[Any, Tensor], None]
) -> Iterator[None]:
    """Within the block, call ``take(key, g)`` with the gradient of the output of each module in
    every backward pass. Outputs behind which nothing else requires a gradient require one here."""

    def hook(key: Any) -> Callable:
        def run(module, inputs, output: Tensor) -> None:
            if torch.is_grad_enabled():
                if not output.requires_grad:
                    output.requires_grad_()
                output.register_hook(partial(take, key))

        return run

    handles = [module.register_forward_hook(hook(key)) for key, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def capture_inputs(
    modules: Mapping[Any, nn.Module], receive: Callable[[Any, Tensor], None]
) -> Iterator[None]:
    """Within the block, call ``receive(key, x)`` with the first input x of each module.

    x is the live tensor: ``receive`` must not change it, and should not keep it. The hooks are
    removed when the block is left, by an exception too.
    """
    handles = []
    try:
        for key, module in modules.items():
            hook = _input_hook(key, receive)
            handles.append(module.register_forward_pre_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _input_hook(key: Any, receive: Callable[[Any, Tensor], None]):
    def hook(module: nn.Module, args: tuple) -> None:
        receive(key, args[0])

    return hook


@contextmanager
def replaced_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Within the block each of these modules does what it is mapped to, not its own work.

    What the modules do comes back when the block is left, by an exception too.
    """
    own = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module, forward in own.items():
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = forward


@contextmanager
def run_again(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Within the block these modules keep of a pass what they are given alone, and are run again on
    the way back, with the same random numbers (gradient checkpointing, arXiv 1604.06174)."""
    how = {"use_reentrant": False, "preserve_rng_state": True}
    again = {module: partial(checkpoint, module.forward, **how) for module in modules}
    with replaced_forwards(again):
        yield


@contextmanager
def record_calls(modules: Sequence[nn.Module]) -> Iterator[list[tuple[Tensor, dict[str, Any]]]]:
    """Within the block ``modules`` do nothing but hand on their first argument.

    Yields a list that is filled, call by call, with that argument and the named ones. What the
    modules do comes back when the block is left, by an exception too.
    """
    calls: list[tuple[Tensor, dict[str, Any]]] = []

    def recorder(first: Tensor, **named: Any) -> Tensor:
        calls.append((first, named))
        return first

    with replaced_forwards(dict.fromkeys(modules, recorder)):
        yield calls


SUBLAYERS = ("attention", "ffn")
"""The two sublayers of a block."""


@dataclass(frozen=True, eq=False)
class Entrance:
    """One batch before the first block: ``hidden`` (B, T, d), and what each block is called with
    besides its hidden states."""

    hidden: Tensor
    arguments: tuple[dict[str, Any], ...]

    def run(self, index: int, block: nn.Module, hidden: Tensor) -> Tensor:
        """The output (B, T, d) of ``block``, called as block ``index``, on ``hidden`` (B, T, d)."""
        return block(hidden, **self.arguments[index])


@torch.no_grad()
def enter_blocks(adapter: Adapter, tokens: Tensor) -> Entrance:
    """What enters the blocks of a model for tokens (B, T): everything before them is run.

    In evaluation mode: in training, an embedding may be dropped out, and OPT may skip blocks.
    """
    modules = [block.module for block in adapter.blocks]
    with evaluation_mode(adapter.model), record_calls(modules) as calls:
        adapter.run_blocks(tokens.to(adapter.input_device))
    return Entrance(hidden=calls[0][0], arguments=tuple(named for _, named in calls))


@torch.no_grad()
def leave_blocks(adapter: Adapter, tokens: Tensor, hidden: Tensor) -> Tensor:
    """The logits (B, T, V) of tokens (B, T) whose last block gives ``hidden`` (B, T, d).

    Everything after the blocks is the model's own code (norm, head, a softcap of the logits); of
    the tokens only the shape matters.
    """

    def give(*args: Any, **named: Any) -> Tensor:
        return hidden

    def embed(tokens: Tensor) -> Tensor:
        return hidden.new_zeros(*tokens.shape, embedding.embedding_dim)

    embedding = adapter.model.get_input_embeddings()  # what it gives is not used
    forwards = {embedding: embed} | {block.module: give for block in adapter.blocks}
    with replaced_forwards(forwards):
        return adapter.model(input_ids=tokens.to(adapter.input_device), use_cache=False).logits


def silent_sublayer(block: Block, sublayer: str) -> dict[nn.Module, Callable[..., Any]]:
    """What modules of ``block`` do, by `replaced_forwards`, for a sublayer with nothing in it.

    ``sublayer`` is one of `SUBLAYERS`. Without heads or channels, all that it adds is the bias
    of its output projection. Its input projections are not computed either.
    """
    if sublayer == "attention":
        return {block.attention: partial(_attend_nothing, block.o)}
    no_channels = dict.fromkeys(block.ffn_in, _take_nothing)
    return no_channels | {block.down: partial(_bias_only, block.down)}


def _attend_nothing(output: nn.Linear, *args: Any, **named: Any) -> tuple[Tensor, None]:
    """The result of an attention module (…, d) without heads, and no attention weights."""
    return _bias_only(output, args[0] if args else named["hidden_states"]), None


def _take_nothing(x: Tensor) -> Tensor:
    """No channels: (…, d) becomes (…, 0)."""
    return x[..., :0]


def _bias_only(linear: nn.Linear, x: Tensor) -> Tensor:
    """What ``linear`` gives for no inputs, for every token of x (…, any): (…, out)."""
    bias = x.new_zeros(linear.out_features) if linear.bias is None else linear.bias
    return bias.expand(*x.shape[:-1], -1)


_SCALE = 2.0**10


def loss_scale(model: nn.Module) -> float:
    """What a loss is multiplied with before its gradients are taken, and they divided by: more than
    1 where they are float16, in which the small ones would become 0."""
    return _SCALE if model.dtype == torch.float16 else 1.0


_POSITIONS = 512  # logits are turned into losses this many positions at a time


def negative_log_likelihood(logits: Tensor, tokens: Tensor) -> Tensor:
    """Σ −log p(next token), in float32, over logits (B, T, V) and tokens (B, T).

    The parts are summed in the widest type where the logits are: nothing waits for the device here.
    """
    losses = []
    for row, target in zip(logits[:, :-1], tokens[:, 1:], strict=True):
        target = target.to(row.device)
        for start in range(0, len(target), _POSITIONS):
            part = slice(start, start + _POSITIONS)
            losses.append(
                functional.cross_entropy(row[part].float(), target[part], reduction="sum")
            )
    wide = widest(logits.device)
    return torch.stack(losses).sum(dtype=wide) if losses else logits.new_zeros((), dtype=wide)


def exp_of(loss: float) -> float:
    """The perplexity of a mean loss: exp, infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


_HIDDEN_SHARE = 0.25
"""The share of a streamed model's budget that hidden states may take in memory."""


class Walk:
    """Tokens (N, T) on their way through a model, in batches of ``batch_size`` rows.

    The hidden states (N, T, d) that enter the next block are held: where the model runs; of one
    that is streamed in host memory or, where they are too large for its budget, on the disk. What
    is done to a block before `step` advances counts for those after it.
    """

    def __init__(self, adapter: Adapter, tokens: Tensor, *, batch_size: int) -> None:
        self.adapter, self._tokens = adapter, tokens.split(batch_size)
        self._hidden = shelf(adapter, self._tokens)
        self._entrances: list[Entrance] = []
        with present(adapter.model.get_input_embeddings()):
            for number, part in enumerate(self._tokens):
                entrance = enter_blocks(adapter, part)
                self._hidden.put(number, entrance.hidden)
                self._entrances.append(replace(entrance, hidden=entrance.hidden[:0].clone()))

    @property
    def blocks(self) -> range:
        """The numbers of the blocks, in order."""
        return range(len(self.adapter.blocks))

    def step(
        self,
        index: int,
        *,
        advance: bool = True,
        watch: Callable[[Tensor, Tensor], None] | None = None,
    ) -> None:
        """Run block ``index`` on all batches; with ``advance`` go on behind it. ``watch`` is given
        what enters and what leaves it (B, T, d) of each batch."""
        module = self.adapter.blocks[index].module
        with present(module):
            if advance and index + 1 < len(self.blocks):
                fetch(self.adapter.blocks[index + 1].module)
            for number, entrance in enumerate(self._entrances):
                before = self._hidden.get(number)
                after = entrance.run(index, module, before)
                if watch is not None:
                    watch(before, after)
                if advance:
                    self._hidden.put(number, after)

    def logits(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Tokens (B, T) of each batch and their logits (B, T, V), behind the last block."""
        with present(self.adapter.model.get_output_embeddings()):
            for number, part in enumerate(self._tokens):
                yield part, leave_blocks(self.adapter, part, self._hidden.get(number))


def logits_of(
    model: nn.Module, tokens: Tensor, *, batch_size: int, progress: Progress, message: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows of tokens (N, T) in batches (B, T), where the model wants them, and their logits
    (B, T, V). A streamed model is walked block by block."""
    adapter = Adapter(model)
    if stream_of(model) is None:
        for start in range(0, len(tokens), batch_size):
            progress(start / len(tokens), message)
            batch = tokens[start : start + batch_size].to(adapter.input_device)
            yield batch, model(input_ids=batch, use_cache=False).logits
        return
    walk = Walk(adapter, tokens, batch_size=batch_size)
    for index in walk.blocks:
        progress(index / len(walk.blocks), message)
        walk.step(index)
    for batch, logits in walk.logits():
        yield batch.to(logits.device), logits


def shelf(adapter: Adapter, batches: Sequence[Tensor]) -> "_Live | _Host | _Disk":
    """Where the hidden states of batches of tokens (B, T) are held, by the batches' numbers."""
    stream = stream_of(adapter.model)
    if stream is None:
        return _Live()
    width = adapter.blocks[0].down.out_features * stream.dtype.itemsize
    size = sum(tokens.numel() for tokens in batches) * width
    return _Host(stream) if size <= _HIDDEN_SHARE * stream.budget else _Disk(stream)


class _Live:
    """Tensors by number, as they are."""

    def __init__(self) -> None:
        self._held: dict[int, Tensor] = {}

    def put(self, number: int, tensor: Tensor) -> None:
        self._held[number] = tensor

    def get(self, number: int) -> Tensor:
        return self._held[number]


class _Host:
    """Tensors by number, in host memory."""

    def __init__(self, stream: Stream) -> None:
        self._device = stream.device
        self._held: dict[int, Tensor] = {}

    def put(self, number: int, tensor: Tensor) -> None:
        self._held[number] = tensor.to("cpu")

    def get(self, number: int) -> Tensor:
        return self._held[number].to(self._device)


class _Disk:
    """Tensors by number, each in a file."""

    def __init__(self, stream: Stream) -> None:
        self._device, self._scratch = stream.device, Scratch(stream.room)
        self._files: dict[int, Path] = {}

    def put(self, number: int, tensor: Tensor) -> None:
        self._files[number] = self._scratch.save(str(number), {"hidden": tensor.cpu()})

    def get(self, number: int) -> Tensor:
        with safetensors.safe_open(self._files[number], framework="pt") as opened:
            return opened.get_tensor("hidden").clone().to(self._device)
