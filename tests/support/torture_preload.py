"""What the processes of the torture tests have done before they are forked: imports, and one small job of each kind."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torture_jobs import compare, train

import pvae.comparison.page.report_data
import pvae.report.writing

torch.set_num_threads(1)
# To draw the pictures of the page takes most of a small comparison.
pvae.report.writing._encode_pictures = lambda page: {}
pvae.comparison.page.report_data.ReportData.rows_with_pictures = lambda data: []
with tempfile.TemporaryDirectory() as folder:
    train(str(Path(folder) / "run"))
    compare(str(Path(folder) / "comparison"))
