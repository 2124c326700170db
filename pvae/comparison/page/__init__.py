"""The HTML page of a comparison, as content for `pvae.report`."""
