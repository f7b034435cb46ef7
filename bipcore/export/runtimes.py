"""Which programs run what a plan leaves of a model, and what would do for those that do not.

The first four were run on exports. Of vLLM, MLX and ONNX nothing was run here: what is said of them
was read in their sources (vLLM's and mlx-lm's models, Optimum's generators of dummy inputs). What
vLLM asks of code that comes with a model was tested with transformers alone.
"""

from dataclasses import dataclass

from ..models.families import base_type, family_of
from ..pruning.plan import PruningPlan
from .gguf.architectures import choose
from .older_readers import OLDEST, too_new, with_older_fields
from .stock import stock_problem

_UNIFORM = "uniform widths: --allocation uniform, no block protected, no sublayer removed"
_ALL_HEADS = "all heads, fewer channels: --unit none, --allocation uniform"
_CACHE = "It makes the cache of every block for the number of heads that the configuration says."
_NOT_PASSED_ON = ("stablelm",)
"""The families whose stock blocks do not pass on to their attention what the model is handed."""
_HEAD_WIDTH = "It takes the width of a head from the hidden size and the number of heads."

_VLLM_FREE = ("llama", "mistral", "qwen3", "gemma2", "gemma3_text", "phi3")
_MLX = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "gpt_neox")
_MLX_FREE = ("llama", "mistral", "qwen3", "gemma2", "gemma3_text")
_ONNX_FREE = ("mistral", "qwen3", "gemma2", "gemma3_text")
"""The families of which a program reads the width of a head from the configuration."""

DEPLOYABLE = {"stock": "transformers 5", "vllm": "vLLM", "gguf": "llama.cpp"}
"""The programs that plans can be made for, by what `PlanSpec.deployable` calls them."""


@dataclass(frozen=True)
class Verdict:
    """Whether a program ``takes`` a plan, by which ``format``; if not, the ``reason`` and the
    ``nearest`` plan that it would take. ``tried``: whether such exports were run in it here."""

    program: str
    takes: bool
    format: str
    reason: str = ""
    nearest: str = ""
    tried: bool = True


def runtimes(plan: PruningPlan, config) -> list[Verdict]:
    """The verdict of every program on what ``plan`` leaves of the model of ``config``, which is
    that of the dense or of the pruned one."""
    stock = stock_problem(plan, config)
    near = _nearest(plan) if stock else ""
    return [
        Verdict("transformers 5", stock is None, "stock", stock or "", near),
        Verdict("transformers 5, running code", True, "modelling-file"),
        _older(config, stock),
        _llama_cpp(plan, config),
        *_read_only(plan, config, stock),
        _vllm_with_code(plan, config),
    ]


def verdict(deployable: str, plan: PruningPlan, config) -> Verdict:
    """That of the program which a plan setting names, one of `DEPLOYABLE`."""
    found = {one.program: one for one in runtimes(plan, config)}
    return found[DEPLOYABLE[deployable]]


def _older(config, stock: str | None) -> Verdict:
    reason = too_new(with_older_fields(config.to_dict()))
    written = "modelling-file" if stock else "stock"
    said = f"Of transformers, {reason}" if reason else ""
    return Verdict(f"transformers {OLDEST}", reason is None, written, said)


def _llama_cpp(plan: PruningPlan, config) -> Verdict:
    architecture, problem = choose(plan, config, None)
    near = _nearest(plan) if problem and not plan.uniform else ""
    return Verdict("llama.cpp", architecture is not None, "gguf", problem, near)


def _read_only(plan: PruningPlan, config, stock: str | None) -> list[Verdict]:
    """Those that read the folder of a stock class, which none here was run in."""
    kind, title = base_type(config.model_type), family_of(config).title
    programs = {
        "vLLM": (None, _VLLM_FREE),
        "MLX": (_MLX, _MLX_FREE),
        "ONNX (Optimum)": (None, _ONNX_FREE),
    }
    found = []
    for name, (known, free) in programs.items():
        reason, near = stock or "", _nearest(plan) if stock else ""
        if known is not None and kind not in known:
            reason, near = f"It has no {title}.", ""
        elif not stock and not _has_all_heads(plan) and kind not in free:
            reason, near = _HEAD_WIDTH, _ALL_HEADS
        found.append(Verdict(name, not reason, "stock", reason, near, tried=False))
    return found


def _vllm_with_code(plan: PruningPlan, config) -> Verdict:
    """Of its Transformers backend, which runs the modelling file: in its source
    (`model_executor/models/transformers/base.py`) the caches of all blocks have the same heads."""
    shapes = set(plan.pruned_shape.blocks)
    said = len(shapes) == 1 and family_of(config).reloads_heads
    takes = said or all(shape.heads in (0, config.num_attention_heads) for shape in shapes)
    reason, near = ("", "") if takes else (_CACHE, "all heads, fewer channels: --unit none")
    if base_type(config.model_type) in _NOT_PASSED_ON:
        title = family_of(config).title
        reason, near = f"Stock {title} passes nothing on to its attention.", ""
    program = "vLLM, running code"
    return Verdict(program, not reason, "modelling-file", reason, near, tried=False)


def _nearest(plan: PruningPlan) -> str:
    """The plan that stock classes take."""
    shapes = [plan.pruned_shape.blocks[index] for index in plan.left]
    whole = all(shape.heads and shape.channels for shape in shapes)
    return _ALL_HEADS if plan.uniform and whole else _UNIFORM


def _has_all_heads(plan: PruningPlan) -> bool:
    pairs = zip(plan.pruned_shape.blocks, plan.shape.blocks, strict=True)
    return all(now.heads in (0, was.heads) for now, was in pairs)
