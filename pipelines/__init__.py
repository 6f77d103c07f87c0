"""One short module for each stage of dvc.yaml: read params.yaml, call insitu, report."""
