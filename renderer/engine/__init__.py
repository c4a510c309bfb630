"""The worker's side, with torch and DiffSynth: a setup in, pictures out, one process, one device.

Knows nothing of manifests, plans, files of pictures or other workers.

    worker            a process that takes orders and answers with events
    supplier          a process that fetches a model and packs it
    probe             what works on this machine, found by trying
    microbenchmark    how fast this device and its host are
    engines           what a worker needs of an engine; there are two
    libraries         torch, transformers and DiffSynth, imported without what no picture needs

Streaming, where blocks come to the pictures:

    streaming         the engine: who admits, sweeps and lands
    beginning         what of it needs no DiffSynth: a store is found, its blocks come; starting: what a start took
    journeys          one picture's way, from noise to pixels
    riders            calls of DiffSynth's that pause wherever a block would run
    live              its sections on this device, each kind of block in the best way here
    sections          a network's sections of alike blocks, brought past whoever waits in them
    side_by_side      how the rows of riders lie that go through a block together
    slots             blocks come past in sweeps
    block_source      where slots get blocks from: protocols; pinned: host memory that is copied fast
    shared_blocks     one copy of them for all workers of a machine
    budget            how many slots, how many pictures in flight
    company           how many pictures one sweep is worth: reckoned, then corrected by what sweeps show
    previews          what a picture on its way will look like
    prompts           the prompts at hand, encoded
    encoding          in one sweep over the text encoder
    modulation        a timestep's vectors, ready-made
    adapters          LoRAs that pictures ride with, brought in step; adapted: layers that give what they add
    controls          ControlNets that hold pictures, brought in step too; in_step: a second network of blocks
    recorded          a block's launches, recorded and played
    skeletons         networks without their blocks
    stores            the store that is streamed from

Arithmetic:

    arithmetic        which kind of block the slots get on this device
    blocks            how a block is computed from a slot's bytes
    precision         how a packed weight becomes one that can be multiplied
    scaled_blocks     a block that multiplies what is stored; scaled_kernels, scaled_reference, scaled_adapted: its
                      pieces; fp8_kernels, fp8_reference, int8_kernels, int8_reference: each arithmetic's
    unpacked_blocks   one that is unpacked to be multiplied; int4_kernels: how
    product_trial     whether such products come out right here
    picture_vae       a picture's VAE, in strips; vae_kernels, vae_reference: its pieces
    strips            chains of layers that make any rows of a result

DiffSynth's own call, picture after picture:

    native            the engine
    hotload           LoRAs in its pipeline, by its own loading
    pipeline          opens a `QwenImagePipeline`; configs: what that is given
    tensor_map        tensors by the names that DiffSynth's modules have
    coded             layers that hold what a codec keeps of their weights
    device            where weights lie, by profile and precision: a table
    resolve           which files a model is opened from

Both:

    calling           DiffSynth's `pipe(...)` for a job
    schedules         how noise falls from step to step, in DiffSynth's words
    inputs            pictures that go in, brought to the size of what is rendered
    traps             what DiffSynth does without a word, and what stands against it
    failures          what DiffSynth, transformers and torch raise, in our words
    chatter           what DiffSynth prints goes to the log
    meter             seconds and bytes, as they are spent
    facts             versions and the card
    perceptual        a process that tells how far apart pictures are to people's eyes
"""
