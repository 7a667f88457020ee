"""Tests that need other frameworks: collected only where these are installed (``pip install -e '.[frameworks]'``)."""

from tests.frameworks.catalog import FRAMEWORKS

#: Files with a framework's name in theirs need it; that of all models needs at least one.
collect_ignore_glob = [
    f"test_*{framework.module.removeprefix('models_')}*.py" for framework in FRAMEWORKS if not framework.installed
]
if not any(framework.installed for framework in FRAMEWORKS):
    collect_ignore_glob.append("test_models.py")
