"""python -m est_cli.corpus is est-data."""

from est_cli.corpus import console

console()
