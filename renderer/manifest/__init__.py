"""From text to pictures: every job with nothing left open, or all problems at once, each with its line.

`source` has the bytes, `decoding` the text, `yaml_reader` (with `json_reader`, `scalars`, `yaml_hints`) the values
and where they stand; `fields` holds them against what a field may be, with `habits` and `foreign` for what other
tools write; `expand` makes pictures, `naming` their ids and files; `manifest` is the whole, `doubts` its warnings.
The way back: `replay`, from what `labels` reads out of a picture. Knows nothing of machines.
"""
