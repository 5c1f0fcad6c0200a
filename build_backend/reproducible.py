"""setuptools' build backend (PEP 517), with the time of all files in a wheel fixed.

The same sources then give the same wheel, byte for byte, whenever they were checked out
(reproducible-builds.org/specs/source-date-epoch); a SOURCE_DATE_EPOCH of the user's own stands.
"""

import os

from setuptools.build_meta import *  # noqa: F403

os.environ.setdefault("SOURCE_DATE_EPOCH", "1577836800")  # 2020-01-01; a ZIP file knows no time before 1980
