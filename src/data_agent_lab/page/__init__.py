"""report.html: what runs show, as one file that a browser opens without a network."""
