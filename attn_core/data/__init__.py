"""Loaders of the real data that the chapters use; `python -m attn_core.data` installs it.

- `attn_core.data.catalogues`: translated messages of programs, as sentence pairs.
- `attn_core.data.dates`: dates written in several languages.
- `attn_core.data.plays`: Shakespeare's plays, letter by letter.
- `attn_core.data.vocabulary`: tokens to numbers and back.
- `attn_core.data.fonts`: a font with Chinese glyphs.
- `attn_core.data.pretrained`: trained weights and their tokenizers.
- `attn_core.data.packages`: what is installed where, and under which licence.
"""
