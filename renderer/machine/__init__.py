"""What this machine is and how fast.

`hardware` has memory and disks, `gpus` what NVML tells, `devices` which of them render, `in_use` on which others do,
`processor` its cores, `rates` what it does in a second (`reckoned`: a card that nobody knows).
Answers in a blink and without torch; what only torch can tell is asked of a process of its own. Knows no models.
"""
