"""The report as one HTML file: no scripts, no network, every foreign text shown and never interpreted."""
