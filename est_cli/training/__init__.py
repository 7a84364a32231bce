"""Training: start.py says which run is meant, build.py puts it together, train.py trains it.

Nothing is imported here, so that a command line can be checked (start.py) before torch is loaded.
"""
