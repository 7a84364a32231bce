"""Several processes on this machine: starting them, passing signals on, and ending all when one is lost."""
