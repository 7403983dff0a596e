"""Writes a tokenizer that splits at blanks, because the tools would load one from a hub."""

import json

WORDS = ["[UNK]", "[PAD]", "<s>", "</s>", *"""This is a simulated answer from the language model that you asked about with your question
 and it has some more words in the text of each prompt so that every tool can build one from them""".split()]


def write(directory):
    """Writes the files of a tokenizer for the `transformers` library."""
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(WORDS))}
    special = [{"id": vocabulary[word], "content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                "special": True} for word in WORDS[:4]]
    (directory / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }))
    (directory / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "pad_token": "[PAD]", "bos_token": "<s>", "eos_token": "</s>",
        "model_max_length": 100000, "clean_up_tokenization_spaces": False,
        "chat_template": "{% for message in messages %}{{ message['content'] }} {% endfor %}",
    }))
    return directory
