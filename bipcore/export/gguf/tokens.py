"""A tokenizer as llama.cpp is told of it: from the parts of a tokenizer.json.

Two kinds are written: byte-level BPE, whose pre-tokenizer llama.cpp knows by a name, and BPE as
sentencepiece does it, with spaces written as "▁" and bytes for what is unknown.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import reason_of
from ...models.tokenizer import PROBES

_NORMAL, _UNKNOWN, _CONTROL, _OF_USERS, _UNUSED, _BYTE = range(1, 7)
_SPACE = "▁"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_SLASHED = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _by_case(ending: str) -> str:
    """Words that are cut where small letters are followed by a capital."""
    many, one = f"{_UPPER}*{_LOWER}+{ending}", f"{_UPPER}+{_LOWER}*{ending}"
    return f"{_BEFORE}{many}|{_BEFORE}{one}"


PRE_TOKENIZERS: dict[tuple[str, ...], tuple[str, str]] = {
    ("gpt2",): ("gpt-2", ""),
    ("digit", "gpt2"): ("smollm", ""),
    (f"{_CASES}|{_WORDS}|\\p{{N}}{{1,3}}|{_REST}",): ("dbrx", "llama-bpe"),
    (f"{_CASES}|{_WORDS}|\\p{{N}}|{_REST}",): ("qwen2", ""),
    (_by_case("") + rf"|\p{{N}}|{_SLASHED}",): ("", "tekken"),
    (_by_case(f"{_CASES}?") + rf"|\p{{N}}{{1,3}}|{_SLASHED}",): ("gpt-4o", ""),
}
"""How a text is cut before BPE: by the regular expressions one after the other ("gpt2": that of
GPT-2, "digit": every digit apart), the names that llama.cpp has for it (`llama-vocab.cpp`) where
merges are always made, and where a word that is a token is left whole ("ignore_merges")."""


@dataclass(frozen=True)
class Tokens:
    """What is written of a tokenizer: the model and pre-tokenizer in llama.cpp's words, and for
    each token its text, its kind and, for sentencepiece, its score."""

    model: str
    pre: str
    texts: list[str]
    kinds: list[int]
    scores: list[float] | None
    merges: list[str] | None
    spaced: bool | None


def tokenizer_problem(tokenizer, config) -> str | None:
    """Why a tokenizer cannot be written for a model of ``config``, in a sentence."""
    try:
        tokens = _read(tokenizer, config.vocab_size)
        if tokens.model == "llama":
            _check_sentencepiece(tokenizer, tokens)
    except ValueError as error:
        return (
            f"llama.cpp has no tokenizer like this model's: {error}; --format stock or "
            "modelling-file writes it as it is."
        )
    return None


def token_keys(tokenizer, config) -> Iterator[tuple[str, str, Any]]:
    """The keys about the tokenizer: name, type and value."""
    tokens = _read(tokenizer, config.vocab_size)
    yield "tokenizer.ggml.model", "string", tokens.model
    yield "tokenizer.ggml.pre", "string", tokens.pre
    yield "tokenizer.ggml.tokens", "array", tokens.texts
    yield "tokenizer.ggml.token_type", "array", tokens.kinds
    if tokens.scores is not None:
        yield "tokenizer.ggml.scores", "array", tokens.scores
    if tokens.merges:
        yield "tokenizer.ggml.merges", "array", tokens.merges
    if tokens.spaced is not None:
        yield "tokenizer.ggml.add_space_prefix", "bool", tokens.spaced
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    for ours, theirs in names.items():
        number = getattr(tokenizer, f"{ours}_token_id")
        if number is not None:
            yield f"tokenizer.ggml.{theirs}_token_id", "uint32", number
    ids = tokenizer("a")["input_ids"]
    yield "tokenizer.ggml.add_bos_token", "bool", ids[0] == tokenizer.bos_token_id
    yield "tokenizer.ggml.add_eos_token", "bool", ids[-1] == tokenizer.eos_token_id
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("default")
    if template:
        yield "tokenizer.chat_template", "string", template


def _read(tokenizer, size: int) -> Tokens:
    """What is written of ``tokenizer`` for ``size`` tokens; raises ValueError, with the reason."""
    if not tokenizer.is_fast:
        raise ValueError("it has no tokenizer.json")
    said = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = said["model"].get("type")
    if kind != "BPE":
        raise ValueError(f"it is a {kind}, and only BPE is written")
    if len(tokenizer) > size:
        raise ValueError(f"it has {len(tokenizer):,} tokens, and the embedding {size:,}")
    texts, kinds = _vocabulary(tokenizer, said, size)
    if said["model"].get("byte_fallback"):
        return _sentencepiece(said, texts, kinds)
    merges = [" ".join(_merge(each)) for each in said["model"]["merges"]]
    if not merges:
        raise ValueError("it merges nothing")
    return Tokens("gpt2", _pre_tokenizer(said), texts, kinds, None, merges, None)


def _merge(said: str | list[str]) -> list[str]:
    return said.split(" ") if isinstance(said, str) else said


def _vocabulary(tokenizer, said: dict, size: int) -> tuple[list[str], list[int]]:
    """The text and the kind of every token; rows of the embedding beyond them are not used."""
    texts = [f"[PAD{number}]" for number in range(size)]
    kinds = [_UNUSED] * size
    for text, number in said["model"]["vocab"].items():
        texts[number], kinds[number] = text, _NORMAL
        if said["model"].get("byte_fallback") and len(text) == 6 and text.startswith("<0x"):
            kinds[number] = _BYTE
    for added in said["added_tokens"]:
        texts[added["id"]] = added["content"]
        kinds[added["id"]] = _CONTROL if added["special"] else _OF_USERS
    if said["model"].get("byte_fallback") and tokenizer.unk_token_id is not None:
        kinds[tokenizer.unk_token_id] = _UNKNOWN
    return texts, kinds


def _pre_tokenizer(said: dict) -> str:
    """The name that llama.cpp has for the pre-tokenizer; raises ValueError where it has none."""
    normaliser = (said["normalizer"] or {}).get("type")
    if normaliser not in (None, "NFC"):
        raise ValueError(f"its text goes through {normaliser} first")
    cuts: list[str] = []
    byte_level = False
    for step in _steps(said["pre_tokenizer"], "pretokenizers"):
        if step["type"] == "Digits" and step["individual_digits"]:
            cuts.append("digit")
        elif step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            cuts.append(step["pattern"].get("Regex", ""))
        elif step["type"] == "ByteLevel" and not step["add_prefix_space"]:
            byte_level = True
            cuts += ["gpt2"] if step["use_regex"] else []
        else:
            raise ValueError(f"its text is cut by {step['type']}")
    names = PRE_TOKENIZERS.get(tuple(cuts), ("", ""))
    name = names[bool(said["model"].get("ignore_merges"))]
    if not byte_level or not name:
        raise ValueError("its text is cut in a way that llama.cpp has no name for")
    return name


def _steps(said: dict | None, parts: str) -> list[dict]:
    if said is None:
        return []
    return said[parts] if said["type"] == "Sequence" else [said]


def _sentencepiece(said: dict, texts: list[str], kinds: list[int]) -> Tokens:
    """A piece is worth the more the earlier it is merged; raises ValueError for other texts."""
    spaced = False
    for step in _steps(said["normalizer"], "normalizers"):
        if step["type"] == "Prepend" and step["prepend"] == _SPACE:
            spaced = True
        elif step["type"] != "Replace" or step["content"] != _SPACE:
            raise ValueError(f"its text goes through {step['type']} first")
    for step in _steps(said["pre_tokenizer"], "pretokenizers"):
        if step["type"] == "Metaspace" and step["replacement"] == _SPACE and not step["split"]:
            spaced = spaced or step["prepend_scheme"] != "never"
        elif step["type"] != "Split" or step["pattern"].get("String") not in (" ", _SPACE):
            raise ValueError(f"its text is cut by {step['type']}")
    ranks: dict[str, int] = {}
    for merge in said["model"]["merges"]:
        ranks.setdefault("".join(_merge(merge)), len(ranks))
    scores = [-float(ranks.get(text, len(ranks))) for text in texts]
    return Tokens("llama", "default", texts, kinds, scores, None, spaced)


def _check_sentencepiece(tokenizer, tokens: Tokens) -> None:
    """Raise ValueError where sentencepiece, told what is written, does not encode as ``tokenizer``:
    merges of other tokenizers need not follow from scores."""
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = bool(tokens.spaced)
    proto.normalizer_spec.remove_extra_whitespaces = False
    for text, kind, score in zip(tokens.texts, tokens.kinds, tokens.scores or (), strict=True):
        proto.pieces.add(piece=text, score=score, type=kind)
    try:
        reader = SentencePieceProcessor(model_proto=proto.SerializeToString())
    except RuntimeError as error:
        raise ValueError(f"sentencepiece refuses its pieces ({reason_of(error)})") from None
    for text in PROBES:
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        if reader.encode(text) != found:
            raise ValueError("its merges do not follow from a score of each piece")
