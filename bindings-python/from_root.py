"""What builds the package where somebody says `pip install .` in the repository's root: it lives here, one folder below."""

import os

from maturin import *  # noqa: F403 -- all that pip may call

os.chdir(os.path.dirname(os.path.abspath(__file__)))
