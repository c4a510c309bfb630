"""What lies in `outputs/<name>`, and how it is written there: whole or not at all.

`folder` says what lies where; `picture_files` writes, checks and sweeps pictures and sidecars; `encode` makes a file
of pixels; `input_files` are pictures that go in, `taken_in` where they stood; `metadata` is what a picture says of
itself; `journal` what happened to those that are not done; `status` how a run stands, `summary` how it went,
`describe` both in words; `nights` which runs are on, and what is asked of them; `picks` what somebody thinks of
pictures; `done` and `sources` what is there already. Knows no manifests, plans or workers.
"""
