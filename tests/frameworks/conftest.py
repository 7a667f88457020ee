"""Tests that need other frameworks: collected only where these are installed (``pip install -e '.[frameworks]'``)."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["test_*torch*.py"]
