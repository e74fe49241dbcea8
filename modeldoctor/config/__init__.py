"""Every option of the commands as pydantic models: a diagnosis in `diagnose`, a treatment in `treat`."""
