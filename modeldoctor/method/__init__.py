"""The paper: sample and class correlation (Eq. 2-4), constraints (Eq. 5-6), what they attribute, and maps."""
