from attn_core.data import packages, pretrained


def test_the_weights_lie_in_the_data_folder():
    for folder in (pretrained.minilm_folder(), pretrained.whisper_folder()):
        assert folder.is_relative_to(packages.data_folder())


def test_a_long_text_is_neither_cut_off_nor_padded():
    tokenizer = pretrained.minilm_tokenizer()
    words = ["attention"] * 1_000
    long, short = tokenizer.encode_batch([" ".join(words), words[0]])
    assert len(long.ids) == 1_002
    assert short.tokens == ["[CLS]", "attention", "[SEP]"]


def test_whisper_text_comes_back_and_special_tokens_do_not():
    tokenizer = pretrained.whisper_tokenizer()
    text = " Please attend, 请注意: naïve — 42!"
    ids = [tokenizer.token_to_id("<|startoftranscript|>"), *tokenizer.encode(text).ids]
    assert tokenizer.decode(ids) == text
