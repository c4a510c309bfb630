"""The night: manifests in, pictures out, whatever happens. Never imports torch, prints nothing.

`run` is all manifests, `batch` one, `night` what they share. `pool` has the workers, `worker` is one: a child process.
`results` are looked at and written down, `outcomes` counted and told, `progress` adds them up; `waiting` are those to
come; `bringing` and `moving` are for pictures that lie elsewhere. `provision` brings models. `events` is what watchers
hear (`busy`: of long work), `settings` how to behave, `logs` what a worker prints. Knows no engine.
"""
