"""What the files of schedulers have in common. Everything beside this package is a scheduler."""
