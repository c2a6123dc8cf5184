"""What report.py does: the summary, what it says in words, and the page."""
