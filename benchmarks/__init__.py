"""Measures gatewayd beside the proxies that users would pick instead.

`python -m benchmarks` runs everything and writes docs/performance.md; `--quick` takes two minutes.
Each part (small, bodies, latency, scaling, idle, picks) can be run alone by its name. The proxies get
one core, load and upstream the others; whatever is started is started here and ended here.
"""
