"""How many examples the property tests try, and which.

`quick` is what README's command uses, `thorough` what `.ci/run` adds to it with
`-m "thorough or hypothesis" --hypothesis-profile=thorough`.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

QUICK, THOROUGH = 50, 300


def register() -> None:
    """Name the profiles, and choose `quick` unless pytest's command line chooses another.

    `quick` tries the same examples every time: a test run after a change to one room should not
    fail by chance in another. Finding new failures is the task of `thorough`: it draws at random,
    first tries what failed before on this machine (`.hypothesis`, Hypothesis' database), and
    prints the line that reproduces a failure elsewhere. No profile has a deadline or minds slow
    examples: a slow machine must not fail a test.
    """
    for name, examples in (("quick", QUICK), ("thorough", THOROUGH)):
        settings.register_profile(
            name,
            settings.get_profile("default"),  # whatever CI says; Hypothesis has a profile for that
            max_examples=examples,
            derandomize=name == "quick",
            deadline=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow],
        )
    settings.load_profile("quick")


def one_in(share: int) -> settings:
    """Return settings with the profile's number of examples divided by `share`.

    For a test that runs once for each of many parameters, or whose every example writes to the
    disk. A fixed number would not scale with the profile.
    """
    return settings(max_examples=settings.default.max_examples // share)


def with_shared_fixtures(of: settings | None = None) -> settings:
    """Allow fixtures of one test, as `tmp_path` is: the examples leave nothing to each other."""
    found = of or settings.default
    allowed = (*found.suppress_health_check, HealthCheck.function_scoped_fixture)
    return settings(found, suppress_health_check=allowed)
