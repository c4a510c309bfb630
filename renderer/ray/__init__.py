"""Workers on the machines of a Ray cluster. Needs the extra `cluster`; torch is imported by the workers alone.

`connecting` finds or starts a cluster and asks its machines; `arrival` is what one tells of itself, and what must be as
it is here. `cluster_fleet` is a run's: the devices that there are, and how a worker is had. It hires a
`cluster_worker`, the supervisor's end of one, whose other end is an actor: `node_worker`, which holds a process on its
machine, and sees to the model there. `carried` is what goes along with an order. Knows no manifests and no folders of
outputs.
"""
