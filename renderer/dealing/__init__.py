"""Which device has which pictures: one policy, for the night that is on and for its forecast. No torch, no clock.

`deal` says which seat is at which group and what it takes next, `shares` which part of a group's work each is to hold;
`parties` is what both are told of pictures, groups and seats, `lines` pictures that wait, by their kind. A night asks
them as words come from its workers; `played` asks them by a clock of its own, and says how long that takes. Knows no
plans, no machines and no events.
"""
