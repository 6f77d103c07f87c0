"""The page's parts, one module each: `section(bench) -> Section`."""
