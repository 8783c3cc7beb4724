"""Options of runs of a second whose folders have some hundred kB: one that is dry, one that trains and checkpoints."""

from __future__ import annotations

_DRY = ["training=none", "stop.target_accuracy=", "stop.virtual_time=6h"]
_TRAINED = [
    "population.clients=100",
    'executor.kind="serial"',
    "stop={server_steps=12}",
    'aggregation={kind="buffered",concurrency=8,buffer_size=3}',
    'record.checkpoint_every="1ms"',
]

#: Options of ``evsim run quickstart``.
OPTIONS = {
    "dry": [part for each in _DRY for part in ("-o", each)],
    "trained": [part for each in _TRAINED for part in ("-o", each)],
}
