"""Every parser of Shipway's given what nobody would write: a seeded part in `make test`, the long run by `make fuzz`.

`targets` is the table of parsers and begins there; the claims on each are in `written_files`, `bodies`, `answers`, `hints`
and `stored`. `corpus/` has inputs for each of them, among them all by which a fault was ever found.
"""
