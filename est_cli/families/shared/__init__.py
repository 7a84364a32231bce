"""What files of families have in common. Everything beside this package in est_cli/families is a family."""
