"""How the demo model is trained, from nothing but code: `python -m renderer.demo.train --help`.

    scenes.py         what a picture shows, drawn by lot, and which combinations are kept out of training
    phrases.py        a scene in words: English and Chinese, in several phrasings
    placing.py        a scene and a size ▶ numbers: where each thing stands
    draw.py           numbers ▶ pictures, hundreds at once, on whatever device torch has
    feed.py           scenes, prompts and tokens from worker processes
    vae_training.py   the VAE: trained on pictures, then scaled to the fixed latent statistics
    passes.py         the family's forward passes, batched and padded, as training wants them
    dit_training.py   text encoder and DiT together, by flow matching
    lora_training.py  LoRAs for the model, by a command of their own: few steps, and a style
    edits.py          edits, drawn by lot: a picture's numbers before and after
    edit_phrases.py   what is asked of an edit, in words
    edit_passes.py    the forward passes with a picture that is edited, and the vision tower's
    edit_feed.py      edits and tokens from worker processes
    edit_training.py  the model learns to edit, by a command of its own
    keep.py           weights in and out of the model's folder; sample sheets

Rendering never imports this room.
"""
