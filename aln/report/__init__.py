"""What sweeps found, for people: the plots at a sweep's end, and one page of one or several sweeps (`write_report`)."""

from aln.report.page import write_report

__all__ = ["write_report"]
