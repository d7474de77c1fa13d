"""Long runs of the fault tests, with a table at the end."""


def require(condition: bool, what: str) -> None:
    """Ends the campaign where something is not as it should be.

    Args:
        condition: Whether it is.
        what: What is wrong otherwise.

    Raises:
        AssertionError: It is not.
    """
    if not condition:
        raise AssertionError(what)
