"""What report.py does: the summary, the page and its words."""
