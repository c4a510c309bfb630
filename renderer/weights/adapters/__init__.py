"""LoRAs on disk: small networks that are added to a model's own. Knows nothing of pictures and GPUs.

whereabouts   where one lies, by a catalogue's id or a file, and which it is
"""
