"""What run folders show: records, statistics, reports."""
