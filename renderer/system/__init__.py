"""What the operating system gives, and what it may take away.

`files` are written whole or not at all; `lock` keeps two runs apart, `leases` those of
several machines; `folders` says where things lie on this machine, `patterns` which paths one fits.
`children` are processes of ours, `shared_memory` what several of them have once, `signals` what asks this one to stop,
`streams` what it prints, `utf8` how it spells names, `heap` what goes back of its memory, `oom` what the kernel ended,
`crashes` what is left of a fault of our own. Knows nothing of pictures.
"""
