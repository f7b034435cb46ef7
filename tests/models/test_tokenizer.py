"""Tokenizers of model folders: a sentencepiece model alone, and what is written of it."""

import io
from pydoc_data.topics import topics

import pytest
import sentencepiece
import transformers as tf

from bipcore.errors import InputError
from bipcore.models.loading import load_model
from bipcore.models.tokenizer import save_tokenizer
from tests.helpers.folders import byte_model, edit_json, model_folder

TEXTS = [topics[key][:500] for key in sorted(topics)[::20]]
TEXTS += ["Grüße,  señor ☃ ½ ﬁ", "日本語 🤗", "x", "a\n\nb\tc  d", "1234.5"]
SETTINGS = {
    "as LLaMA's": {"normalization_rule_name": "identity", "byte_fallback": True},
    "as sentencepiece's own": {},
    "without a space before": {"add_dummy_prefix": False, "byte_fallback": True},
}


@pytest.fixture(scope="module", params=SETTINGS)
def folder(request, tmp_path_factory):
    """A tiny model whose tokenizer is a sentencepiece model, and nothing else."""
    folder = tmp_path_factory.mktemp("model")
    byte_model().save_pretrained(folder)
    written = io.BytesIO()
    settings = SETTINGS[request.param]
    lines = " ".join(topics[key] for key in sorted(topics)[:40]).split("\n")
    spaces = settings.get("normalization_rule_name") != "identity"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=written,
        model_type="bpe",
        vocab_size=400,
        minloglevel=3,
        remove_extra_whitespaces=spaces,
        user_defined_symbols=["<mine>"],
        **settings,
    )
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text("{}")
    edit_json(
        folder / "tokenizer_config.json",
        tokenizer_class="LlamaTokenizer",
        add_bos_token=True,
        **names,
    )
    return folder


def test_a_sentencepiece_model_alone_encodes_as_sentencepiece_does(folder):
    _, tokenizer = load_model(str(folder))
    wanted = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert len(tokenizer) == wanted.vocab_size()
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == wanted.encode(text), text
        if wanted.unk_id() not in ids:
            assert tokenizer.decode(ids).strip() == wanted.decode(ids).strip()
    assert tokenizer(TEXTS[0])["input_ids"][0] == wanted.bos_id()
    assert tokenizer.eos_token_id == wanted.eos_id()


def test_what_is_written_of_it_needs_no_sentencepiece_and_encodes_the_same(folder, tmp_path):
    _, tokenizer = load_model(str(folder))
    save_tokenizer(tokenizer, tmp_path)
    assert not (tmp_path / "tokenizer.model").exists()
    again = tf.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"], text
    assert again.special_tokens_map == tokenizer.special_tokens_map


@pytest.mark.parametrize("fields", [{"model_max_length": "x"}, {"eos_token": 3}])
def test_settings_that_only_fail_when_something_is_read_are_refused(tmp_path, fields):
    edit_json(model_folder(tmp_path) / "tokenizer_config.json", **fields)
    with pytest.raises(InputError, match="no usable tokenizer"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"garbage" * 99, b"\x0a\x02\x0a"])
def test_a_damaged_sentencepiece_model_is_refused(folder, tmp_path, content):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(InputError, match="no usable tokenizer") as raised:
        load_model(str(tmp_path))
    assert "\n" not in str(raised.value)
