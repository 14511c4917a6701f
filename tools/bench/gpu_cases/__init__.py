"""What the GPU benchmark measures: one file a family, each a generator of cases from the sizes that it is given."""
