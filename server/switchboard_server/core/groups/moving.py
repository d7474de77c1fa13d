"""Groups whose place is taken by another node."""


class MovedError(Exception):
    """The group is served by another node from now on.

    Never shown to a client: whoever gets it asks the node that serves the group now. What was under
    way may have been done and may not.
    """
