"""Files that lie far away: on web servers, in S3 or Google's storage, on the hub; read on from where a transfer broke.

`file.py` says what such a file is, `web.py` and `stores.py` ask for its bytes, `reader.py` holds the patience.
"""

from est_cli.data.text.far.file import FarFile
from est_cli.data.text.far.reader import FarReader, ask, find

__all__ = ["FarFile", "FarReader", "ask", "find"]
