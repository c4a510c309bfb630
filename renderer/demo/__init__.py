"""The embedded model: a small member of the Qwen-Image family, opened by DiffSynth's own loader.

    tokenizer.py   a Qwen2 tokenizer whose merges make DiffSynth's prompt template 34 tokens long
    family.py      the networks in small widths, and how DiffSynth's tables come to know them
    weights.py     seeded random weights, scaled so that pictures are colourful noise
    cache.py       `folder()`: the model's folder on this machine, made at first use

Knows DiffSynth's model classes and file layout; knows nothing of jobs, pipelines or pictures.
"""
