from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

# Elsewhere than in tests of the GPU, whose results differ in the last digits, one is not to be seen. Before torch looks for it.
if "PROTEUS_TEST_GPU" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

# The workers of a parallel run share the cores: with threads for all cores each, they would mostly wait for one another. Before NumPy
# and torch count them; processes that tests start inherit it.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    each = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(each))

# Strategies and builders are shared between test files.
sys.path[:0] = [str(Path(__file__).parent / name) for name in ("theory", "empirics")]

settings.register_profile("default", deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
# The contract computes whole ladders: fewer of them in the everyday run.
settings.register_profile("contract", settings.get_profile("default"), max_examples=20)
settings.register_profile("thorough", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")
