"""What this machine makes of full-size models: `renderer bench weights`, `engine` and `memory`.

They make a checkpoint of random weights with Qwen-Image's exact keys, shapes and bytes, and run the real code on it.
Each measured part is a process of its own, so that its peak of memory is its own.

    running      what all of them share
    loading      `weights`: pack, verify, load a sweep; parts: its measured parts
    engine       `engine`: streamed: our cases; bare: between two of them; peers: what others make of the same weights
    served       `engine`, too: clients at `renderer serve`, and their pictures as a batch
    few          `engine`, too: many pictures of few steps, by the command itself
    lora_cases   `engine`, too: what LoRAs add to a step; lora_steps: the measured
    edit_cases   `engine`, too: what a step of an edit takes; edit_steps: the measured
    share_cases  `engine`, too: where the seconds of pictures of few steps go; share_steps: the measured
    control_steps what ControlNets, regions and a context add to a step: a command of its own
    layer_steps  pictures that are taken apart: a command of its own
    several      one GPU beside all of a host
    forecasts    `memory`: cases: what is measured, by name; peaks, cells, verdicts, times: the measured, and its tables
    input_cases  `memory`, too: cells with pictures that go in; input_peaks: the measured
    decodes      the VAE alone
    saving       how many pictures a supervisor writes a second, and for how long its loop is away
    sums         what fast sums cost and gain
    kernels      each of our kernels once, for `compute-sanitizer` to watch
"""
