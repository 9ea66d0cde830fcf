"""Seeds as data: intervals, paired designs, censored times to a threshold, comparisons."""
