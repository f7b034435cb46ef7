"""The tokenizer of a model folder: read, and written.

A folder may have its sentencepiece model alone (``tokenizer.model``, as Vicuna has). What
`transformers` makes of it is compared with sentencepiece itself, and made anew where they differ.
"""

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ..errors import InputError, reason_of, short

SENTENCEPIECE = "tokenizer.model"
_SPACE = "▁"
_CONTROL, _OF_USERS = 3, 4
PROBES: tuple[str, ...] = (
    "Hello, world! It's 1234.5 o'clock; isn't it?",
    "two  spaces,\ttabs\n\nand    lines \n",
    "def f(x):\n    return x ** 2  # <a href='x'>",
    "Grüße, señor ☃ ½ ﬁ №",
    "日本語のテキスト 🤗 и русский",
)
"""Texts that tokenizers are compared on."""


def load_tokenizer(name: str, folder: Path, config):
    """The tokenizer in ``folder``, of the model ``name``; raises InputError."""
    options = {"config": config, "local_files_only": True, "trust_remote_code": False}
    file = folder / SENTENCEPIECE
    try:
        found = AutoTokenizer.from_pretrained(folder, **options)
        alone = file.is_file() and not (folder / "tokenizer.json").is_file()
        found("a", verbose=False)  # some settings fail only when something is read with them
        return _as_sentencepiece(found, file) if alone else found
    except Exception as error:  # transformers lets many kinds through
        raise InputError(f"{short(name)} has no usable tokenizer: {reason_of(error)}.") from None


def _as_sentencepiece(found, file: Path):
    """``found`` where it encodes as the sentencepiece model in ``file``, else one that does."""
    from sentencepiece import SentencePieceProcessor

    wanted = SentencePieceProcessor(model_file=str(file))
    for tokenizer in (found, _made_anew(found, file)):
        ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in PROBES)
        if list(ids) == [wanted.encode(text) for text in PROBES]:
            return tokenizer
    raise ValueError(f"{file.name} cannot be converted to a tokenizer.json that encodes the same")


def _made_anew(found, file: Path) -> PreTrainedTokenizerFast:
    """The sentencepiece model in ``file`` with the special tokens and the template of ``found``."""
    from sentencepiece import sentencepiece_model_pb2

    said = sentencepiece_model_pb2.ModelProto.FromString(file.read_bytes())
    backend = Tokenizer(_model(said))
    backend.normalizer = _normalizer(said.normalizer_spec)
    parts = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if said.normalizer_spec.add_dummy_prefix:
        parts.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(parts)
    backend.add_tokens(
        [
            AddedToken(piece.piece, normalized=False, special=piece.type == _CONTROL)
            for piece in said.pieces
            if piece.type in (_CONTROL, _OF_USERS)
        ]
    )
    backend.post_processor = found.backend_tokenizer.post_processor
    template = {"chat_template": found.chat_template} if found.chat_template else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=found.model_max_length,
        padding_side=found.padding_side,
        **found.special_tokens_map,
        **template,
    )


def _model(said) -> models.Model:
    """The vocabulary of a sentencepiece model, as `tokenizers` has it."""
    from transformers.tokenization_utils_base import generate_merges

    spec = said.trainer_spec
    if spec.model_type == spec.UNIGRAM:
        scores = [(piece.piece, piece.score) for piece in said.pieces]
        return models.Unigram(scores, unk_id=spec.unk_id, byte_fallback=spec.byte_fallback)
    if spec.model_type != spec.BPE:
        raise ValueError("its tokenizer.model is neither BPE nor unigram")
    vocabulary = {piece.piece: number for number, piece in enumerate(said.pieces)}
    return models.BPE(
        vocabulary,
        generate_merges(vocabulary),
        unk_token=said.pieces[spec.unk_id].piece,
        fuse_unk=True,
        byte_fallback=spec.byte_fallback,
    )


def _normalizer(spec) -> normalizers.Normalizer:
    """What sentencepiece does to a text before it is cut into pieces."""
    steps = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    steps.append(normalizers.Replace(" ", _SPACE))
    return normalizers.Sequence(steps)


def save_tokenizer(tokenizer, folder: Path) -> None:
    """Write the tokenizer; its library's bare Exception on a full disk becomes an OSError."""
    try:
        tokenizer.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:
        raise OSError(reason_of(error)) from error
