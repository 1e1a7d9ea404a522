"""Sparse matrices for fast products on CPU and GPU."""

import warnings

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

MAX_COLUMNS = 64
"""Columns beyond which no product is faster per column."""


class StoredMatrix(nn.Module):
    """A sparse matrix in compressed rows that follows its operator between devices.

    Args:
        matrix: values in any real dtype; they are cast to the dtype of the other factor.
    """

    _rows: Tensor
    _columns: Tensor
    _values: Tensor

    def __init__(self, matrix: csr_array) -> None:
        super().__init__()
        self.shape = matrix.shape
        # 32-bit indices: the CPU library would convert wider ones at each product.
        for name, array in (("_rows", matrix.indptr), ("_columns", matrix.indices)):
            indices = array.astype(np.int32, copy=False)
            self.register_buffer(name, torch.from_numpy(indices), persistent=False)
        self.register_buffer("_values", torch.from_numpy(matrix.data), persistent=False)
        with warnings.catch_warnings():
            # Once per process torch calls its CSR layout beta: a user can do nothing about it.
            # Here and not at each product, which would make other warnings show repeatedly.
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            self._tensor(torch.float32)

    def __matmul__(self, columns: Tensor) -> Tensor:
        """Return the product with dense columns (n, k), float32 or float64."""
        # Sparse products exist in single and double precision only: autocast must not lower them.
        with torch.autocast(columns.device.type, enabled=False):
            return self._tensor(columns.dtype) @ columns

    def _tensor(self, dtype: torch.dtype) -> Tensor:
        values = self._values.to(dtype)
        return torch.sparse_csr_tensor(
            self._rows, self._columns, values, self.shape, check_invariants=False
        )
