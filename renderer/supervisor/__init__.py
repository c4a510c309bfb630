"""The night: manifests in, pictures out, whatever happens. Never imports torch, prints nothing.

`run` is the whole, `night` what its manifests share, `batch` one of them, `rendering` all of them on their way as
one. Three parts meet there: a `picture_source`; the `dispatcher`, which gives them to a `pool` of workers (which has
what, the wing `dealing` says, of `groups` and by the seats' `speeds`; `worker` is what one is, `local_worker` a child
process, `correspondence` the ways to one and back, `inbox` what it says, `holdings` what it holds, `timely` which
picture would be done in time, `fleet` where they are, `host_copies` what several share); and `outcomes` of each batch
(`together`: of all), which tell what became of a picture to their `sinks`: journal, plan, counts (`progress`,
`tempo`, `work_left`), watchers.

`incoming` is what goes into pictures, read on a thread; `results` are pictures that came, looked at and written, on
the threads of `writing`; `readings` are pictures whose lettering is read; `bringing` and `moving` are for those that
lie elsewhere, `vanishing` machines that are taken away. `provision` brings models, `merging` what other machines have
rendered; `sharing` is whose turn it is beside them, `same_bits` which kind of card is kept to. `events` is what
watchers hear (`busy`: of long work, `heartbeat`: how things stand), `mailbox` what others ask of a night, `joining`
has manifests that join it (`watched`: from a folder), `preparing` what has to be there before any are rendered,
`rest` its pauses and its end, `settings` how to behave, `logs` what a worker prints. Knows no engine.
"""
