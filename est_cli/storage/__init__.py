"""What lies on the disk: whole or not at all. Standard library only, but for tensors and content.

disk.py            each change of the disk: synced, atomic, locked, and what is said where it is refused
digest.py          SHA-256 of files, remembered while they are as they were
strict_json.py     JSON that may come from someone else
manifest.py        folders that are whole or not there, and MANIFEST.json
store.py           checkpoints as such folders: written, verified, kept, set aside
cache.py           what takes long to make: kept in such folders, or made again
run_dir.py         a run's folder, its lock, and where its model is
tensors.py         weights and moments: taken to the host, checked, loaded
content.py         what a training run puts into a checkpoint, and takes from it
versions.py        what it was made with
"""
