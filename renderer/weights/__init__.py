"""Models on disk: found, fetched, checked, read, packed. Knows nothing of pictures, jobs and GPUs.

Which they are, and where:

    identity      which weights these are: a catalogue's revision, or a hash of what they hold
    provenance    where a picture's weights come from, as its sidecar tells it
    places        where models lie on this machine, and what of them is missing
    comfyui_has   what ComfyUI has of a model
    soundness     whether files can be what they are taken for
    recognise     what a sound file is that is no network of ours
    strangers     what a file is that is no safetensors
    vouched       whether files are what whoever gave them said they are

Fetching:

    needs         what a run needs of a model, and what that will cost
    prepare       see to it that a model is here
    pull          from a hub, verified
    hubs          the two hubs behind one face
    patience      a server that is busy is asked again
    record        what a fetch leaves beside the files
    hashes        SHA-256 of files and tensors, remembered

Reading and packing:

    readers/      how tensors lie in somebody's file: a reader a format
    codecs/       how a matrix is kept in a store: a codec a precision
    adapters/     LoRAs: found, read, packed
    control_files ControlNets: found, held against a model, read as they lie
    headers       safetensors' headers, read within bounds
    dtypes        its types, as torch has them
    checkpoint    a downloaded network: where each of its tensors lies
    layout        which tensor goes into which file of a store
    convert       tensors as the codecs keep them, a piece at a time
    pack          makes a store
    settle        a store's place on the disk, and what a crash left beside it
    originals     the files that a store is made of: hashed, discarded
    index         what a store says of itself
    store         a store that is there: whole or not, read into a buffer
    within        blocks of one file with others, read one by one
    crc32s        its files' sums, of parts that several threads read
    unpacked      a checkpoint that reads like its store
    verify        every file against its hash
    synthetic     a full-size checkpoint of random weights
"""
