"""Speed, as ratios and medians in one run: `make bench`."""
