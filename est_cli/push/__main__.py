"""python -m est_cli.push is est-push."""

from est_cli.push import console

console()
