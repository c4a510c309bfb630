"""LoRAs on disk: small networks that are added to a model's own. Knows nothing of pictures and GPUs.

Which it is, and whether it fits:

    whereabouts   where one lies, by a catalogue's id or a file, and which it is
    alphas        how strongly it counts, where that stands beside its tensors
    dialects      how tools write its keys: a row a tool
    targets       the layers of a model, by their names
    landing       every key lands on a layer, or the file is refused
    others        whose layers these are, where they are not ours
    weighing      what it takes once it is made ready

In numbers:

    factors       two factors for each layer
    packed        a file a block, made once

For good:

    fusing        what is added to which tensor of a model
"""
