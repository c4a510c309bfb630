"""What this machine makes of full-size models: `renderer bench weights`, `renderer bench engine`.

They make a checkpoint of random weights with Qwen-Image's exact keys, shapes and bytes, and run the real code on it.
Each measured part is a process of its own, so that its peak of memory is its own.
"""
