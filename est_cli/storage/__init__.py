"""What lies on the disk: whole or not at all. Standard library only, but for what holds tensors.

disk.py            each change of the disk: synced, atomic, locked, and what is said where it is refused
digest.py          SHA-256 of files, remembered while they are as they were
strict_json.py     JSON that may come from someone else
manifest.py        folders that are whole or not there, and MANIFEST.json
store.py           checkpoints as such folders: written, verified, kept, set aside
cache.py           what takes long to make: kept in such folders, or made again
run_dir.py         a run's folder, its lock, and where its model is
tensors.py         weights and moments: taken to the host, checked, loaded
content.py         what a training run puts into a checkpoint, and takes from it
shares.py          the same of a model that is spread over processes: what each writes, and all of it as one file
together.py        a checkpoint that several processes write
consolidate.py     such a checkpoint as the plain folder of one process
versions.py        what it was made with
"""
