"""modeldoctor: diagnose, treat and prove (Model Doctor, AAAI 2022)."""
