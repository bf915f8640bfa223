"""What every transport must do, as checks that a third party's can be put through."""

from ._connect import Connect as Connect
