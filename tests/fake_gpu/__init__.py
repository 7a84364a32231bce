"""What runs on fake CUDA tensors: shapes, types and devices without values, in torch's build for GPUs, without a GPU.

`make test-fake-gpu` makes such an environment (some gigabytes) and runs this folder in it; elsewhere it is skipped.
"""
