"""Where a config's files lie: absolute paths, so that a run finds them again from any folder."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from fedllm_bench.common.files import at_home
from fedllm_bench.config.bases.declared import base_of
from fedllm_bench.config.bases.labels import is_gguf
from fedllm_bench.config.clock.device_bytes import device_bytes
from fedllm_bench.config.clock.section import DRAWN, VirtualClock
from fedllm_bench.config.run import EMBEDDED_MODEL, RunConfig


def placed(config: RunConfig) -> RunConfig:
    """`config` with the absolute paths of folders and files; their contents name the run, not the paths.

    The name of a base stays, also where a folder has the same one; that folder is given as ./NAME.
    """
    model = config.model
    is_named = model.name == EMBEDDED_MODEL or base_of(model.name) is not None
    name = model.name if is_named else _absolute(model.name)
    model = replace(model, name=name, adapter=model.adapter and _absolute(model.adapter))
    offsite = replace(config.offsite, public=config.offsite.public and _absolute(config.offsite.public))
    split = config.split and _absolute(config.split)
    return replace(config, model=model, split=split, offsite=offsite, clock=_with_devices(config.clock))


def _with_devices(clock: VirtualClock) -> VirtualClock:
    """The section with the place of its file of devices, and what names its contents.

    Raises a :class:`UserError` where there is no such file.
    """
    if clock.devices == DRAWN:
        return replace(clock, devices_sha256="")
    place = at_home(clock.devices).absolute()
    content = device_bytes(clock.devices, place)
    return replace(clock, devices=str(place), devices_sha256=hashlib.sha256(content).hexdigest())


def _absolute(name: str) -> str:
    """Of a folder or a GGUF file; another name as it is."""
    place = at_home(name)
    return str(place.absolute()) if place.is_dir() or (is_gguf(name) and place.is_file()) else name
