"""What holds for all tests."""

import hypothesis

# A deadline measures the machine, not the code: an example that takes 1 ms takes 500 while others compile.
hypothesis.settings.register_profile("corral", deadline=None)
hypothesis.settings.load_profile("corral")
