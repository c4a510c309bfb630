"""What will be done, before anything is: no torch, no GPU asked but by NVML, nothing written.

`plan` says what is done and what is left, `selection` which pictures are meant, `once_more` makes others of them,
`takes` which seed of a picture comes next, `retakes` how many are expected, `placement` by which profile the rest is
rendered, `deployment` what each of several devices opens, `fitting` what cannot be, `riding` what LoRAs take beside
the model, `space` whether the disk has room, `pace` how long a picture takes, `forecast` all of it for people
(`group_forecast`: of one model and precision, `on_device`: on one device), `mixtures` whether pictures would be of two
kinds, `prune` what no manifest names, `owner` whose a folder is, `sharding` which part of a manifest is whose
(`part_folders`: its folder), `auto` the precision that a manifest leaves to the machine (`precision_choice`: which
that is). Knows no workers.
"""
