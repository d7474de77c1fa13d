"""What can be wrong with keys and certificates."""


class CredentialsError(Exception):
    """Keys or certificates that cannot be used.

    Args:
        problems: Pairs of the parameter that is to blame, by its name in the function that raises
            this, and what is wrong with it.
    """

    def __init__(self, *problems: tuple[str, str]) -> None:
        super().__init__("; ".join(f"{parameter} {problem}" for parameter, problem in problems))
        self.problems = problems
