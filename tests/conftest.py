"""For all tests: a property test is judged by what it finds, never by how long an example took on a busy machine."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None, print_blob=True)
settings.load_profile("untimed")
