"""Fixtures that every test may use."""

from hypothesis import HealthCheck, Phase, settings

# The same examples in every run, so that a failure is the change's and not the day's. Look for new
# ones with: pytest --hypothesis-profile=explore
settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,
    # Without the phase that explains failures, which traces every line and takes minutes for it.
    phases=set(Phase) - {Phase.explain},
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "explore",
    settings.get_profile("repeatable"),
    derandomize=False,
    max_examples=2000,
    print_blob=True,
)
settings.load_profile("repeatable")
