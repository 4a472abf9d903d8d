"""Roles of an ExecuTorch bundle's files in its manifest."""

from __future__ import annotations

ROLES = {
    "model": "executorch_model",
    "tables": "executorch_tables",
    "tokenizer": "tokenizer_json",
    "vision": "executorch_vision",
    "audio": "executorch_audio",
    "stock": "executorch_stock",
    "rows": "executorch_rows",
}
