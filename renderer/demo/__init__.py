"""The embedded model: a small member of the Qwen-Image family, opened by DiffSynth's own loader.

    model/         its weights and tokenizer, in Qwen-Image's layout, with a card and the training log
    edit_model/    what of it is trained on to edit: the rest, its VAE, is the model's
    loras/         a LoRA for it, in the catalogue: pictures in 4 steps
    cache.py       `folder()` and `located()`: where they lie
    members.py     the networks in small widths, and how DiffSynth's tables come to know them
    tensors.py     which files, and which tensors in them
    tokenizer.py   a Qwen2 tokenizer whose merges make DiffSynth's prompt template 34 tokens long
    looks.py       what prepares pictures for a small edit model
    train/         how it was trained, from nothing but code
    judge.py       says what a picture shows, without knowing who drew it
    edit_judge.py  says whether an edit did what was asked for, and left the rest

Knows DiffSynth's model classes and file layout; knows nothing of jobs or pipelines.
"""
