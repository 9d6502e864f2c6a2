"""Without the import hook of an editable installation, PYTHONPATH chooses the version of onebit."""

import sys

sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in type(f).__module__]
