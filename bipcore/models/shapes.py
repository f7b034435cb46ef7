"""The sizes of a model, and what follows from them: parameters and multiply-accumulates.

Letters: d hidden size, h head width, H query heads, K key/value heads, F feed-forward channels.
A `ModelShape` is plain data. It is all that a plan needs to know of a model, so plans for a
model of any size can be made, and counted, without its weights.
"""

from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace

from ..errors import InputError, reason_of


@dataclass(frozen=True)
class BlockShape:
    """The widths of one decoder block: H query heads, K key/value heads, F channels."""

    heads: int
    kv_heads: int
    channels: int

    @property
    def group(self) -> int:
        """The query heads that share one key/value head, H / K; 1 where there are no heads."""
        return self.heads // self.kv_heads if self.kv_heads else 1


@dataclass(frozen=True)
class UnitCost:
    """What one unit (a query head, a key/value head, a channel) holds.

    ``parameters`` counts weights and biases; ``weights`` only the weights, each of which is
    one multiply-accumulate a token.
    """

    parameters: int
    weights: int


def check_unit(blocks: Sequence[BlockShape], block: int, kind: str, number: int) -> None:
    """Raise InputError where there is no block ``block``, or it has no ``kind`` ("head" or
    "channel") of that number."""
    if not 0 <= block < len(blocks):
        raise InputError(f"There is no block {block}; the blocks are 0 to {len(blocks) - 1}.")
    count = blocks[block].heads if kind == "head" else blocks[block].channels
    if not 0 <= number < count:
        raise InputError(f"Block {block} has no {kind} {number}; it has {count}, counted from 0.")


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a causal language model.

    ``block_fixed``: parameters of a block that no plan removes (norms, output biases).
    ``other_parameters``: everything outside the blocks, a tied embedding counted once.
    ``other_weights``: weights of the linear layers outside the blocks (the language-model
    head, tied or not), each one multiply-accumulate a token.
    ``heads_stay``: its heads are normalised all together, so a plan keeps all of a block, or none.
    """

    model_type: str
    hidden: int
    head_dim: int
    blocks: tuple[BlockShape, ...]
    head_cost: UnitCost
    kv_head_cost: UnitCost
    channel_cost: UnitCost
    block_fixed: int
    other_parameters: int
    other_weights: int
    max_positions: int | None = None
    heads_stay: bool = False

    def parameters_of_block(self, block: BlockShape) -> int:
        """Parameters of one block with the widths of ``block``."""
        return (
            self.block_fixed
            + block.heads * self.head_cost.parameters
            + block.kv_heads * self.kv_head_cost.parameters
            + block.channels * self.channel_cost.parameters
        )

    @property
    def block_parameters(self) -> int:
        """Parameters of all decoder blocks together."""
        return sum(self.parameters_of_block(block) for block in self.blocks)

    @property
    def parameters(self) -> int:
        """Parameters of the whole model."""
        return self.block_parameters + self.other_parameters

    def macs(self, seq_len: int) -> int:
        """Multiply-accumulates of one forward pass over ``seq_len`` tokens, head included.

        T · (weights of every linear layer) + 2 · T² · H · h for each block: the products
        Q·Kᵀ and A·V, counted in full as the published counts do (LLaMA-7B at 512 tokens:
        3452 G). Norms, activations and the embedding look-up are left out.
        """
        weights = self.other_weights
        attention_width = 0
        for block in self.blocks:
            weights += block.heads * self.head_cost.weights
            weights += block.kv_heads * self.kv_head_cost.weights
            weights += block.channels * self.channel_cost.weights
            attention_width += block.heads * self.head_dim
        return seq_len * weights + 2 * seq_len**2 * attention_width

    def with_blocks(self, blocks: tuple[BlockShape, ...]) -> "ModelShape":
        """The same model with other widths."""
        return replace(self, blocks=tuple(blocks))

    def differs_in(self, other: "ModelShape") -> str | None:
        """The first of the facts by which plans and scores of one model go with another that it
        has otherwise than ``other``; None where what is made of one is good for both."""
        facts = ("model_type", "hidden", "head_dim", "blocks", "heads_stay")
        return next((name for name in facts if getattr(self, name) != getattr(other, name)), None)

    def to_dict(self) -> dict:
        """Plain JSON types, for `from_dict`; as it always was where single heads can go."""
        return {key: value for key, value in asdict(self).items() if key != "heads_stay" or value}

    @classmethod
    def from_dict(cls, data: dict) -> "ModelShape":
        """The inverse of `to_dict`; raises InputError when a field is missing or wrong."""
        try:
            said = {each.name: data[each.name] for each in fields(cls) if each.default is MISSING}
            said = dict(data) | said  # a field that is missing is named before all else
            said["blocks"] = tuple(BlockShape(**block) for block in said["blocks"])
            for name in ("head_cost", "kv_head_cost", "channel_cost"):
                said[name] = UnitCost(**said[name])
            shape = cls(**said)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"The model shape is not complete: {reason_of(error)}.") from None
        shape._check()
        return shape

    def _check(self) -> None:
        counts = [self.hidden, self.head_dim, self.block_fixed]
        counts += [self.other_parameters, self.other_weights]
        for block in (*self.blocks, self.head_cost, self.kv_head_cost, self.channel_cost):
            counts += vars(block).values()
        if not isinstance(self.heads_stay, bool):
            raise InputError("In a model shape, heads_stay is true or false.")
        if not all(isinstance(count, int) and count >= 0 for count in counts):
            raise InputError("The sizes in a model shape are whole numbers, at least 0.")
        if not self.blocks or any(
            bool(block.heads) != bool(block.kv_heads) or block.heads % max(block.kv_heads, 1)
            for block in self.blocks
        ):
            raise InputError("In a model shape every key/value head has as many query heads.")
