"""The four daemons of Propius and the store of the one that has something to lose.

Each daemon is a core (decisions only, :mod:`propius.core`) and a ``main`` that puts the core into
the shell. Not here: the protocol (:mod:`propius.messages`) and what users import (``propius``).
"""
