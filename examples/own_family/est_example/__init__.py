"""A language model of one's own that est trains: its family (family.py), its modules (model.py), a scheduler."""
