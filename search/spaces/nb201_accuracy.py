"""Accuracies of NAS-Bench-201, from a table of published values: `nb201.npz` with `ops` (N, 6), `acc` (N, D)
in per cent and `acc_names` (D,).

The table holds one number for each network and data set: the accuracy on TEST images after 200 epochs, as the
mean over training seeds (NATS-Bench, arXiv 2009.00437). A search over it therefore sees the very values that
it is judged by: the accuracies of its front are right, and no others are kept back to check them with, so
trials have no `test_accuracy` of their own.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from search.errors import RequestRejected
from search.quality import Quality, TableQuality
from search.spaces.published import NB201

FILE = "nb201.npz"
DATA_SET = "cifar100"  # on which latency-constrained searches over this space are compared (arXiv 2106.08630)


def load(folder: Path) -> TableQuality:
    """Accuracy as a share in [0, 1], by genome. Raises `RequestRejected` for a file that holds none."""
    file = folder / FILE
    try:
        with np.load(file, allow_pickle=False) as archive:
            rows, accuracy = archive["ops"].astype(np.int64), archive["acc"].astype(np.float64)
            names = [str(name).lower().replace("-", "") for name in archive["acc_names"]]
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise RequestRejected(f"{file} holds no accuracies: {error}") from error
    found = [column for column, name in enumerate(names) if name.startswith(DATA_SET)]
    if len(found) != 1 or accuracy.shape != (len(rows), len(names)):
        raise RequestRejected(
            f"{file} has accuracies {accuracy.shape} named {names} for {len(rows)} networks; one column must "
            f"be {DATA_SET!r}"
        )
    shares = accuracy[:, found[0]] / 100.0
    if not ((shares >= 0) & (shares <= 1)).all():
        raise RequestRejected(f"{file}: accuracies must lie between 0 and 100 per cent")
    return TableQuality(
        {
            NB201.genome(row).digest: Quality(share)
            for row, share in zip(rows.tolist(), shares.tolist(), strict=True)
        }
    )
