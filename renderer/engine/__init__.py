"""The room with torch and DiffSynth in it: a setup in, pictures out, one process, one device.

    worker.py      a process that takes orders and answers with events
    native.py      picture after picture through DiffSynth's own call
    pipeline.py    open a `QwenImagePipeline` and check its parts
    placement.py   where weights lie, by profile and precision: a table
    files.py       which files a model consists of, and what is missing
    failures.py    what DiffSynth and torch raise, in our words
    chatter.py     what DiffSynth prints goes to the log
    meter.py       seconds and bytes, as they are spent
    facts.py       versions and the card
    probe.py       what works on this machine, as JSON

Knows nothing of manifests, plans, files of pictures or other workers.
"""
