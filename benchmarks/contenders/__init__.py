"""The contenders of compare.py: one worker script each, every one in a process of its own.

A worker is started as `python -m contenders.NAME JOB` (JOB: the fields of protocol.Job as JSON), takes one optimizer
step, prints `{"ready": true, "startup_s": ..., ...}` and waits. Each line `{"steps": n}` on its stdin lets it take n
more, answered by `{"seconds": ..., "peak_memory_gb": ..., "loss": ...}`; it ends when its stdin does.
"""
