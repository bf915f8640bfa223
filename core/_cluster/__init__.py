"""A server as one node of several: whose sessions are whose, and how any client reaches any of them.

The rest of the core knows nothing of it but the seam; a server without others imports no more.
"""

from .seam import Cluster as Cluster
from .seam import ElsewhereError as ElsewhereError
from .seam import Member as Member
from .seam import MovedError as MovedError
