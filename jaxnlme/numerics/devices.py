"""Where arrays live: one device, a mesh of devices, several processes that compute together."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxnlme import errors
from jaxnlme.errors import OptionError

# The one axis of a mesh: groups are dealt out along it.
AXIS = "groups"

Devices = int | str | Sequence[jax.Device] | Mesh | None


def mesh_of(devices: Devices) -> Mesh | None:
    """The mesh with the one axis "groups" that `devices` stand for, None for the default device.

    **Arguments:** None; a number (the first ones of this process); "all" (those of all processes); a sequence of
    jax devices; or such a mesh itself.
    **Errors:** OptionError for anything else, devices of several kinds, a device named twice, or processes with
    unequal numbers of devices.
    """
    if devices is None:
        return None
    if isinstance(devices, Mesh):
        if devices.axis_names != (AXIS,):
            raise OptionError(
                f"the mesh must have the one axis {AXIS!r}; received {devices.axis_names}. Make it with "
                f"jax.make_mesh((n,), ({AXIS!r},))."
            )
        chosen = list(devices.devices.flat)
    else:
        chosen = _chosen(devices)
    if len(set(chosen)) < len(chosen):
        raise OptionError("devices names one device twice.")
    kinds = sorted({f"{device.platform} ({device.device_kind})" for device in chosen})
    if len(kinds) > 1:
        raise OptionError(
            f"devices are of several kinds: {', '.join(kinds)}; groups are dealt out evenly, so name one."
        )
    counts = np.bincount([device.process_index for device in chosen])
    counts = counts[counts > 0]
    if len(counts) > 1 and (len(counts) != jax.process_count() or np.ptp(counts) > 0):
        raise OptionError(
            f"devices of several processes must be the same number of each process; received {counts.tolist()} of "
            f"{jax.process_count()} processes. Say devices='all'."
        )
    chosen = sorted(chosen, key=lambda device: device.process_index)  # a stable sort: each process has one stretch
    return Mesh(np.array(chosen), (AXIS,))


def _chosen(devices: Any) -> list[jax.Device]:
    if isinstance(devices, str):
        if devices != "all":
            raise OptionError(f"devices must be None, a number, 'all', jax devices or a mesh; received {devices!r}.")
        return jax.devices()
    if isinstance(devices, (int, np.integer)) and not isinstance(devices, bool):
        known = jax.local_devices()
        if not 1 <= devices <= len(known):
            raise OptionError(
                f"devices={devices}: this process has {len(known)} ({known[0].device_kind}). On a CPU, "
                'jax.config.update("jax_num_cpu_devices", n) before the first computation makes n of one.'
            )
        return known[: int(devices)]
    listed = list(devices) if isinstance(devices, (list, tuple, np.ndarray)) else []
    if not listed or not all(isinstance(device, jax.Device) for device in listed):
        raise OptionError(f"devices must be None, a number, 'all', jax devices or a mesh; received {devices!r}.")
    return listed


class Processes:
    """The processes that a fit runs in together, `count` of them, this one the `index`-th; each method with "every"
    in its sentence must be called by all of them at the same point."""

    def __init__(self, mesh: Mesh | None):
        owners = {0} if mesh is None else {device.process_index for device in mesh.devices.flat}
        self.count = len(owners)
        self.index = jax.process_index() if self.count > 1 else 0

    def everyone(self, value: Any) -> list[Any]:
        """What every process has as `value` (anything that can be pickled), in their order."""
        if self.count == 1:
            return [value]
        from jax.experimental.multihost_utils import process_allgather

        own = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes = np.asarray(process_allgather(np.array([len(own)], np.int32)))[:, 0]
        padded = np.zeros(sizes.max(), np.uint8)
        padded[: len(own)] = own
        found = np.asarray(process_allgather(padded))
        return [pickle.loads(row[:size].tobytes()) for row, size in zip(found, sizes, strict=True)]

    def largest(self, value: int) -> int:
        """The largest of the values of every process."""
        if self.count == 1:
            return int(value)
        from jax.experimental.multihost_utils import process_allgather

        return int(np.max(process_allgather(np.array([value], np.int32))))

    def any(self, value: Any) -> bool:
        """Whether the value is true in any of every process."""
        return self.largest(int(bool(value))) == 1

    def all(self, value: Any) -> bool:
        """Whether the value is true in every process."""
        return self.largest(int(not value)) == 0

    def total(self, value: np.ndarray) -> np.ndarray:
        """The sum of the values of every process."""
        return value if self.count == 1 else np.sum(self.everyone(value), axis=0)

    def concatenate(self, values: np.ndarray) -> np.ndarray:
        """The arrays of every process one after the other."""
        return values if self.count == 1 else np.concatenate(self.everyone(values))

    def together(self, work: Callable[[], Any]) -> Any:
        """`work()`, and an exception raised in every process where it raised one in any: none waits for another."""
        if self.count == 1:
            return work()
        result, raised = None, None
        try:
            result = work()
        except Exception as error:
            raised = error
        if not self.any(raised is not None):
            return result
        found = self.everyone(None if raised is None else (type(raised).__name__, str(raised)))
        if raised is not None:
            raise raised
        number, (name, message) = next((k, fault) for k, fault in enumerate(found) if fault is not None)
        raise getattr(errors, name, RuntimeError)(f"in process {number}: {message}")
