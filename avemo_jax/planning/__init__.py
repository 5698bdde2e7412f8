"""Sizing a job without its machines: the real train step, compiled ahead of time for a topology, and counted.

`plan.make_plan` does it; `jobs` runs the compiler in processes of their own (`worker`), `hlo`, `costs`, `collectives`
and `flops` read what comes out (`facts`), `chips` and `roofline` say how long it takes, `search` tries other sizes,
`report` and `page` tell the reader.
"""
